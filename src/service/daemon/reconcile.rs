//! Takes the kernel to what must be in force: at the start, after a change, and when another program changed our rules.

use super::core::{AGAIN, Core, KernelState};
use super::{Failure, gone, system};
use crate::guest::link::{Link, LinkEvent};
use crate::kernel::apply::{self, Retire, Stage};
use crate::program::ir::Ruleset;
use crate::program::ir::observed::Observed;
use crate::ruleset::bypass::reset_by;
use crate::ruleset::from_kernel::recall;
use crate::ruleset::ipset;
use crate::ruleset::layout;
use crate::ruleset::nft::reply::Refusal;
use crate::ruleset::plan::{Plan, Step, TableOperation, plan};
use tokio::time::Instant;
use tracing::{error, warn};

impl Core {
    /// What the kernel filters under a name that the interface no longer has belongs to no binding, and still stays filtered.
    pub(super) async fn close_strays(&mut self) -> Result<(), Failure> {
        let observed = self.observe().await?;
        let ruleset = recall(&observed, &Ruleset::default());
        self.state = self.state.keep_hooks(&ruleset);
        let sets =
            ruleset.tables.iter().flat_map(|(family, table)| table.sets.iter().map(|set| (*family, set)));
        let ipsets = sets.filter(|(_, (name, set))| layout::is_ipset(name, &set.kind()));
        self.ipsets = ipsets.map(|(family, (name, _))| (family, name.clone())).collect();
        for link in self.state.orphaned_interfaces(&ruleset) {
            warn!(
                interface = link.name,
                "blocked: it was renamed while it was bound; bind it under its name"
            );
            self.state = self.state.block(&link, "renamed while it was bound, and not bound under this name");
        }
        for link in self.state.lost(&ruleset, self.bindings.deleted()) {
            warn!(interface = link.name, "blocked: it has rules and no binding; bind it, or remove it");
            self.state = self.state.unreadable_binding(&link.name, "the document of its binding is lost");
        }
        Ok(())
    }

    pub(super) async fn observe(&self) -> Result<Observed, Failure> {
        let observed = self.kernel.submit_observe().await.map_err(|_| gone())?;
        observed.map_err(system("cannot read the rules"))
    }

    /// Ports whose filters the kernel refuses are closed, so that all others have their rules.
    pub(super) async fn enforce_from_start(&mut self) -> Result<(), Failure> {
        self.adopt().await?;
        loop {
            let healed = match self.demand_ipsets_in_force().await {
                Ok(()) => self.reconcile().await,
                Err(refused) => Err(Failure::Refused(refused)),
            };
            let refused = match healed {
                Ok(_) => return Ok(()),
                Err(Failure::Refused(refused)) => refused,
                Err(failure) => return Err(failure),
            };
            if refused.is_stale() && self.forget_gone_links()? {
                continue;
            }
            let why = refused.to_string();
            error!(reason = %why, "rules refused by the kernel: the interfaces that need them are blocked; mend the filter that the reason names");
            let closed = self.state.block_users(&refused.filters(), &why);
            self.state = closed.ok_or(Failure::Refused(refused))?;
        }
    }

    /// After a start of the host no set is there: guests whose filters name one wait until an administrator creates it.
    async fn demand_ipsets_in_force(&self) -> Result<(), apply::Refused> {
        let unseen = |failure: Failure| apply::Refused::unsent("the rules in force", failure.to_string());
        let observed = self.observe().await.map_err(unseen)?;
        let wanted = self.state.firewall().ruleset();
        let difference = plan(&recall(&observed, &wanted), &wanted);
        apply::Refused::of(ipset::unmade(&difference, &observed, |name| self.host.has_ipset(name)))
    }

    /// Whether links were known that are gone by now, whose hooks cannot be installed.
    fn forget_gone_links(&mut self) -> Result<bool, Failure> {
        let there = self.host.links().map_err(system("cannot list links"))?;
        let gone = self.state.links_not_in(&there);
        for link in &gone {
            self.state = self.state.link(&LinkEvent::Gone(Link::clone(link))).next;
        }
        Ok(!gone.is_empty())
    }

    /// Makes the tables ours that an earlier daemon left, as they are. The kernel takes no new base chain in the batch in which
    /// a table gets its owner, so what must be in force comes after it; from here on no other process can change them.
    async fn adopt(&mut self) -> Result<(), Failure> {
        let observed = self.observe().await?;
        let tables =
            observed.families.keys().map(|family| Step { family: *family, change: TableOperation::AddTable });
        let adoption = Plan { prepare: tables.collect(), ..Plan::default() };
        self.submit(adoption).await.map(drop).map_err(Failure::Refused)
    }

    /// Takes the kernel from whatever it holds to what must be in force. Whether there was a difference.
    pub(super) async fn reconcile(&mut self) -> Result<bool, Failure> {
        let observed = self.observe().await?;
        let wanted = self.state.firewall().ruleset();
        let difference = ipset::without_unread(plan(&recall(&observed, &wanted), &wanted));
        let differs = !difference.is_empty();
        let left = self.submit(difference).await.map_err(Failure::Refused)?;
        self.retry_retire(left, &wanted).await.map_err(Failure::Refused)?;
        Ok(differs)
    }

    /// Takes the kernel from one rule set to another. Where it does not hold the first, since a chain is gone with its
    /// device or a move was left half way, the difference is taken from what is there.
    pub(super) async fn converge(&mut self, old: &Ruleset, new: &Ruleset) -> Result<(), apply::Refused> {
        let change = plan(old, new);
        if change.is_empty() {
            return Ok(());
        }
        self.demand_ipsets(&change).await?;
        let outcome = match self.kernel_state {
            KernelState::Diverged => self.converge_from_there(new).await,
            KernelState::InSync => self.submit(change).await,
        };
        let left = match outcome {
            Err(refused) if refused.is_stale() => {
                // Also where the next try is refused, the kernel does not hold what the state says.
                self.kernel_state = KernelState::Diverged;
                self.converge_from_there(new).await?
            }
            outcome => outcome?,
        };
        self.retry_retire(left, new).await
    }

    /// Refuses a change that would make a set which a filter names and which does not exist.
    async fn demand_ipsets(&self, plan: &Plan) -> Result<(), apply::Refused> {
        if !ipset::makes_any(plan) {
            return Ok(());
        }
        let unseen = |failure: Failure| apply::Refused::unsent("the sets in force", failure.to_string());
        let observed = self.observe().await.map_err(unseen)?;
        apply::Refused::of(ipset::unmade(plan, &observed, |name| self.host.has_ipset(name)))
    }

    async fn converge_from_there(&mut self, new: &Ruleset) -> Result<Vec<Refusal>, apply::Refused> {
        let unseen = |failure: Failure| apply::Refused::unsent("the rules in force", failure.to_string());
        let observed = self.observe().await.map_err(unseen)?;
        let change = ipset::without_unread(plan(&recall(&observed, new), new));
        apply::Refused::of(ipset::unmade(&change, &observed, |name| self.host.has_ipset(name)))?;
        self.submit(change).await
    }

    /// An interface that moves passes no traffic at its new attach point before the last batch is in force. What was refused of
    /// that batch is planned again from what the kernel holds, a few times.
    async fn retry_retire(&mut self, mut left: Vec<Refusal>, new: &Ruleset) -> Result<(), apply::Refused> {
        for _ in 0..apply::TRIES {
            if left.is_empty() {
                break;
            }
            self.kernel_state = KernelState::Diverged;
            left = self.converge_from_there(new).await.unwrap_or_else(|refused| refused.refusals);
        }
        if left.is_empty() {
            self.kernel_state = KernelState::InSync;
            return Ok(());
        }
        self.kernel_state = KernelState::Diverged;
        Err(apply::Refused { stage: Stage::Retire, refusals: left, retire_failures: Vec::new() })
    }

    /// Takes the kernel back to the rules of the state, where a change that was refused has left it half way.
    pub(super) async fn rollback_kernel(&mut self) {
        if self.kernel_state == KernelState::Diverged
            && let Err(failure) = self.reconcile().await
        {
            error!(reason = %failure, "rules of a refused change stay in force for now: the kernel refused the undo, too; it is tried again");
            self.settle_within(AGAIN);
        }
    }

    /// Another program changed our rules.
    pub(super) async fn on_foreign_change(&mut self, who: &str) {
        let began = Instant::now();
        match self.reconcile().await {
            Ok(true) => {
                self.counters.healed();
                warn!(by = who, took = ?began.elapsed(), "rules were changed by another program and are restored")
            }
            Ok(false) => {}
            Err(failure) => {
                self.counters.not_healed();
                error!(by = who, reason = %failure, "rules were changed by another program and are not restored for now: the changed rules count; it is tried again");
                self.kernel_state = KernelState::Diverged;
                self.settle_within(AGAIN);
            }
        }
    }

    /// Puts a plan in force; what of its last batch was refused, if an interface moves and needs it.
    pub(super) async fn submit(&mut self, plan: Plan) -> Result<Vec<Refusal>, apply::Refused> {
        if plan.is_empty() {
            return Ok(Vec::new());
        }
        // No packet can reach what is retired, so no call waits for that, unless an interface moves.
        let moves = plan.moves();
        self.know_ipsets(&plan);
        let retire = if moves { Retire::BeforeAnswer } else { Retire::AfterAnswer };
        let began = Instant::now();
        let reset: Vec<u32> = reset_by(&plan).collect();
        let outcome = self.kernel.submit(plan, retire).await;
        self.watch.note_reset(reset, self.now());
        let outcome = outcome.unwrap_or_else(|_| Err(apply::Refused::gone()));
        self.counters.commit(began.elapsed(), (&outcome).into());
        let leftovers = match &outcome {
            Ok(applied) => &applied.retire_failures,
            Err(refused) => &refused.retire_failures,
        };
        self.note_leftovers(leftovers);
        let applied = outcome?;
        Ok(if moves { applied.retire_failures } else { Vec::new() })
    }

    /// Waits until what was put off is deleted. Where the kernel refused to delete something, it holds more than the state says.
    pub(super) async fn finish_deferred(&mut self) {
        if let Ok(Ok(applied)) = self.kernel.submit(Plan::default(), Retire::BeforeAnswer).await {
            self.note_leftovers(&applied.retire_failures);
        }
        if std::mem::take(&mut self.has_leftovers) {
            self.kernel_state = KernelState::Diverged;
        }
    }

    /// Obsolete rules that the kernel did not delete are in no packet's way, and are deleted later.
    fn note_leftovers(&mut self, leftovers: &[Refusal]) {
        for refusal in leftovers {
            warn!(%refusal, "obsolete rules not deleted: it is tried again");
            self.has_leftovers = true;
            self.settle_within(AGAIN);
        }
    }
}
