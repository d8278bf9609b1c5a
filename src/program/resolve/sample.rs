//! Values that stand for variables that have no value yet, so that a filter can be checked before an interface uses it.
//!
//! A sample is never the reason for a refusal: it is the least value where a range begins and the greatest where it ends.

use super::is_available;
use super::walk::Instance;
use crate::document::filter::schema::{Attribute, AttributeRole, ValueKind};
use crate::document::filter::value::bounds;
use crate::document::filter::{AddressEnd, AttributeTest, Value, state};
use crate::document::mac::Mac;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// The same rule with a sample for each variable that is not there.
pub(super) fn sampled(instance: Instance) -> Instance {
    let mut rule = (*instance.rule).clone();
    for entry in &mut rule.matches {
        if is_lacking(entry, &instance) {
            entry.value = sample(entry.attribute);
        }
    }
    Instance { rule: Arc::new(rule), ..instance }
}

fn is_lacking(entry: &AttributeTest, instance: &Instance) -> bool {
    matches!(&entry.value, Value::Variable(access) if !is_available(access, &instance.vars))
}

fn sample(attribute: &Attribute) -> Value {
    let last = matches!(attribute.role, AttributeRole::EndOf(_));
    match attribute.kind {
        ValueKind::Mac => Value::Mac(Mac([2, 0, 0, 0, 0, 1])),
        ValueKind::MacMask => Value::Mac(Mac([0xff, 0xff, 0xff, 0, 0, 0])),
        ValueKind::Ipv4 => Value::Ipv4(if last { Ipv4Addr::BROADCAST } else { Ipv4Addr::UNSPECIFIED }),
        ValueKind::Ipv6 => {
            Value::Ipv6(if last { Ipv6Addr::from([0xff; 16]) } else { Ipv6Addr::UNSPECIFIED }, None)
        }
        ValueKind::Ipv4Mask | ValueKind::Ipv6Mask => Value::Prefix(8),
        ValueKind::Bool => Value::Bool(true),
        ValueKind::Comment | ValueKind::IpsetName => Value::Text("sample".to_owned()),
        ValueKind::States => Value::States(state::NEW),
        ValueKind::TcpFlags => Value::TcpFlags { mask: 2, flags: 2 },
        ValueKind::IpsetFlags => Value::Sides(vec![AddressEnd::Source]),
        // The one upper protocol that another attribute beside a variable asks for.
        ValueKind::IpProtocol => Value::Number { value: 58, hex: false },
        kind => {
            let (least, greatest) = bounds(kind).unwrap_or((0, 0));
            Value::Number { value: if last { greatest } else { least }, hex: false }
        }
    }
}
