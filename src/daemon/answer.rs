//! Answers clients, and whoever keeps figures.

use super::{Daemon, gone};
use crate::diag::{self, Diagnostic};
use crate::engine::documents::error;
use crate::engine::{Change, Context, Write};
use crate::ipset;
use crate::ir::observed::Observed;
use crate::links;
use crate::metrics;
use crate::plan::plan;
use crate::rpc::{self, Call, Error, Reply};
use tracing::info;
use uuid::Uuid;

/// Rules and links go by an interface's own name: a binding under another of its names would wait while the interface is open.
fn under_own_name(change: Change) -> Result<Change, Error> {
    let bound = change.writes.iter().filter_map(|write| match write {
        Write::SaveBinding(portdev, _) => Some(portdev),
        _ => None,
    });
    let mut otherwise = bound.filter_map(|portdev| Some((portdev, links::named_otherwise(portdev)?)));
    match otherwise.next() {
        Some((portdev, own)) => {
            Err(Error::invalid(format!("'{portdev}' is another name of interface '{own}': bind '{own}'")))
        }
        None => Ok(change),
    }
}

impl Daemon {
    pub(super) async fn answer(&mut self, call: Call) {
        let context = Context { now: self.now(), fresh: Uuid::new_v4() };
        let answer = match &call.request {
            rpc::Request::Status => self.status().await,
            rpc::Request::Plan { xml } => self.plan(xml, context),
            rpc::Request::Ipset { name, verb, addresses } => self.ipset(name, *verb, addresses).await,
            request => {
                let change = self.state.request(request, context).and_then(under_own_name);
                self.commit_if(change).await
            }
        };
        self.counters.call(call.request.name(), answer.is_err());
        if let Err(refused) = &answer {
            info!(request = call.request.name(), reason = %refused.message, "refused");
        }
        let _ = call.reply.send(answer); // The client may be gone.
    }

    async fn ipset(
        &mut self,
        name: &str,
        verb: rpc::IpsetVerb,
        addresses: &[String],
    ) -> Result<Reply, Error> {
        let work = ipset::work(&self.observe().await?, name, verb, addresses);
        let work =
            work.map_err(|fault| error(&[Diagnostic::error(diag::Code::INVALID_ARG, fault.to_string())]))?;
        self.submit(work.plan).await.map_err(|refused| Error::internal(refused.to_string()))?;
        if verb != rpc::IpsetVerb::List {
            // Some may be blocked since the set was not there.
            self.retry_closed().await;
        }
        Ok(Reply::Names(work.addresses))
    }

    /// What binding an interface would change; nothing is.
    fn plan(&self, xml: &str, context: Context) -> Result<Reply, Error> {
        let change = self.state.request(&rpc::Request::Apply { xml: xml.to_owned() }, context)?;
        let [old, new] = [&self.state, &change.next].map(|state| state.firewall().ruleset());
        Ok(Reply::Text(plan(&old, &new).to_string()))
    }

    async fn status(&self) -> Result<Reply, Error> {
        let status = self.with_missed(self.state.status(&self.observe().await?));
        let json = serde_json::to_string(&status).map_err(|error| Error::internal(error.to_string()))?;
        Ok(Reply::Json(json))
    }

    /// What is told of us at this moment to whoever keeps figures.
    pub(super) async fn figures(&self) -> String {
        let dropped = match self.observe().await {
            Ok(observed) => metrics::dropped(&self.state.status(&observed)),
            Err(_) => Vec::new(),
        };
        let missed: Vec<_> = self.missed().map(|(link, missed)| (link.name.clone(), missed)).collect();
        self.counters.text(&self.state.census(), &dropped, &missed)
    }

    pub(super) async fn observe(&self) -> Result<Observed, Error> {
        let observed = self.kernel.submit_observe().await.map_err(|_| Error::internal(gone().to_string()))?;
        observed.map_err(|error| Error::internal(error.to_string()))
    }
}
