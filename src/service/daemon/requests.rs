//! Answers clients and the metrics server.

use super::Daemon;
use super::core::Core;
use super::reader::{Ask, View, bad_ipset, ipset_sets};
use crate::engine::Context;
use crate::engine::api::{Reply, Request};
use crate::engine::error::Error;
use crate::kernel::apply::Wanted;
use crate::program::ir::observed::Observed;
use crate::ruleset::counters;
use crate::ruleset::ipset;
use crate::ruleset::layout;
use crate::ruleset::plan::TableOperation;
use crate::service::metrics_server;
use crate::service::rpc::Call;
use tracing::debug;
use uuid::Uuid;

impl Daemon {
    /// A call that changes something.
    pub(super) async fn answer(&mut self, call: Call) {
        let answer = match &call.request {
            Request::Ipset { name, verb, addresses } => self.ipset(name, *verb, addresses).await,
            request => self.core.request(request, Uuid::new_v4()).await,
        };
        self.reply(call, answer);
    }

    /// A call that only looks. What takes longer than a look-up is answered elsewhere.
    pub(super) fn show(&mut self, call: Call) {
        let context = Context { now: self.core.now(), fresh: Uuid::nil() };
        match &call.request {
            Request::CountFilters
            | Request::LookupFilterByName { .. }
            | Request::LookupFilterByUuid { .. }
            | Request::LookupBinding { .. } => {
                let answer = self.core.state.request(&call.request, context).map(|change| change.reply);
                self.reply(call, answer);
            }
            _ => self.teller.ask(Ask::Call(call, self.view())),
        }
    }

    fn reply(&mut self, call: Call, answer: Result<Reply, Error>) {
        self.core.counters.call(call.request.name(), (&answer).into());
        if let Err(refused) = &answer {
            self.refusals.tell(&call, refused);
        }
        let _ = call.reply.send(answer); // The client may be gone.
    }

    fn view(&self) -> Box<View> {
        Box::new(View {
            now: self.core.now(),
            state: self.core.state.clone(),
            missed: self.missed().map(|(link, missed)| (link.index, missed)).collect(),
            counters: self.core.counters.clone(),
            ipsets: self.core.ipsets.clone(),
        })
    }

    async fn ipset(
        &mut self,
        name: &str,
        verb: ipset::IpsetVerb,
        addresses: &[String],
    ) -> Result<Reply, Error> {
        let counted = self.teller.counts(ipset_sets(name)).await;
        let counted = counted.map_err(|error| Error::internal(error.to_string()))?;
        let work = ipset::plan_change(&counted, name, verb, addresses).map_err(|fault| bad_ipset(&fault))?;
        self.core.submit(work.plan).await.map_err(|refused| Error::internal(refused.to_string()))?;
        if verb != ipset::IpsetVerb::List {
            // Some may be blocked since the set was not there.
            self.core.retry_closed().await;
        }
        Ok(Reply::Names(work.addresses))
    }

    /// The state of the daemon at this moment, for the metrics server.
    pub(super) fn figures(&self, question: metrics_server::Question) {
        self.teller.ask(Ask::Figures(question, self.view()));
    }

    /// Has the kernel's counts read, to drop those of objects that no longer exist; no call waits for that.
    pub(super) fn count_for_tidying(&self) {
        let (teller, to) = (self.teller.clone(), self.counted.clone());
        let wanted = Wanted { sets: self.core.state.counted(), chains: Vec::new() };
        tokio::spawn(async move {
            match teller.counts(wanted).await {
                Ok(counted) => _ = to.send(counted).await,
                Err(error) => debug!(reason = %error, "counts of what is no more stay for now"),
            }
        });
    }

    /// Forgets what was counted of interfaces and rules that are no more. Whatever that meets is found the next time.
    pub(super) async fn forget(&mut self, counted: Observed) {
        let _ =
            self.core.submit(counters::forget_stale(&self.core.state.firewall().ruleset(), &counted)).await;
    }
}

impl Core {
    /// Sets that stand for ipsets outlive the programs that refer to them, so they are remembered when they come.
    pub(super) fn know_ipsets(&mut self, plan: &crate::ruleset::plan::Plan) {
        for step in plan.prepare.iter().chain(&plan.switch) {
            if let TableOperation::AddSet(name, kind) = &step.change
                && layout::is_ipset(name, kind)
            {
                self.ipsets.insert((step.family, name.clone()));
            }
        }
    }
}
