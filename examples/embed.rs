//! How another program filters a tap: parse, bind, plan, apply.
//!
//!     cargo run --example embed -- vnet0 52:54:00:00:00:01 10.0.0.1
//!
//! The interface stays filtered when this program has ended; `nwfilter remove --dev vnet0` lets it go.

use nwfilter::document::catalog::Library;
use nwfilter::document::diag::render;
use nwfilter::document::filter::read::read;
use nwfilter::document::span::Source;
use nwfilter::document::vars::Vars;
use nwfilter::kernel::apply::Kernel;
use nwfilter::kernel::links;
use nwfilter::ruleset::firewall::{Attachment, BoundInterface, Firewall, Policy, Rules};
use nwfilter::ruleset::from_kernel::recall;
use nwfilter::ruleset::nft::Ownership;
use nwfilter::ruleset::plan::plan;
use std::error::Error;
use std::sync::Arc;

/// A filter of this program's own, on top of a standard one: a guest that serves nothing but the web.
const WEB: &str = "
<filter name='web-only'>
  <filterref filter='clean-traffic'/>
  <rule action='accept' direction='in' priority='100' statematch='false'><tcp dstportstart='80'/></rule>
  <rule action='drop' direction='in' priority='200'><all/></rule>
</filter>";

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next =
        |what| arguments.next().ok_or(format!("usage: embed DEVICE MAC ADDRESS ({what} is missing)"));
    let (device, mac, address) = (next("DEVICE")?, next("MAC")?, next("ADDRESS")?);

    let (filter, _) = read(&Source::new("web-only.xml", WEB)).map_err(|faults| render(&faults))?;
    let mut vars = Vars::default();
    vars.push("MAC", mac);
    vars.push("IP", address);
    let link = links::by_name(&device)?.ok_or(format!("there is no {device}"))?;
    let rules = Rules::Filter(filter.name.clone());
    let member =
        BoundInterface { index: link.index, name: link.name, place: Attachment::Bridge(None), rules, vars };

    let kernel = Kernel::open(Ownership::OwnedAndKept)?;
    let filters = Library::standard().filters.into_values().chain([Arc::new(filter)]);
    let firewall = Firewall::new(Policy::new(kernel.features())).define(filters)?.bind(member)?;
    let wanted = firewall.ruleset();
    // Whatever an earlier run left is taken from there to what is wanted, without a gap.
    kernel.apply(plan(&recall(&kernel.observe()?, &wanted), &wanted))?;
    println!("{wanted}");
    Ok(())
}
