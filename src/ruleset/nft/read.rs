//! Reads our tables back: requests for dumps, and what they say, as an [`Observed`].
//!
//! A dump comes from any kernel and is read without trust: what is malformed or unknown is left out, and what it was part
//! of is marked as strange; nothing panics, and nothing is allocated beyond what was received.

mod sets;

use super::comment::note;
use super::form::{self, Content};
use super::message::{Attributes, Message};
use super::reply::{Received, attribute, attributes, body, long, number, text};
use super::uapi::*;
use crate::program::ir::observed::{Observed, ObservedChain, ObservedRule, ObservedSet, ObservedTable};
use crate::program::ir::{Family, Hook, HookPoint, Name, SetType, TABLE};
use std::collections::BTreeMap;
use std::io;

/// A way to ask the kernel for a dump: a request without its number, answered by the messages of the dump.
///
/// A dump that was interrupted by a change is to be repeated, not handed on.
pub trait Dump {
    /// Asks, and hands every message of the answer on.
    fn dump(&mut self, request: &DumpRequest, each: &mut dyn FnMut(&Received<'_>)) -> io::Result<()>;
}

/// A request for a dump or a single answer.
#[derive(Clone, Debug)]
pub struct DumpRequest(Message);

impl DumpRequest {
    /// The request as it is sent.
    pub fn bytes(&self, sequence: u32) -> Vec<u8> {
        self.0.bytes(sequence)
    }

    fn dump(kind: i32, family: u8, fill: impl FnOnce(&mut Attributes)) -> DumpRequest {
        let mut attributes = Attributes::default();
        fill(&mut attributes);
        let flags = libc::NLM_F_DUMP as u16;
        DumpRequest(Message { kind: kind as u16, flags, family, attributes, step: 0 })
    }

    /// For the number of the rule set's generation: one answer, no dump.
    pub fn generation() -> DumpRequest {
        let kind = libc::NFT_MSG_GETGEN as u16;
        let flags = libc::NLM_F_ACK as u16;
        DumpRequest(Message { kind, flags, family: 0, attributes: Attributes::default(), step: 0 })
    }
}

/// How often the whole is read again because it changed meanwhile.
const ATTEMPTS: usize = 16;

/// Reads all our tables, as they were at one moment.
pub fn observe(link: &mut dyn Dump) -> io::Result<Observed> {
    for _ in 0..ATTEMPTS {
        let before = generation(link)?;
        let observed = observe_once(link);
        if generation(link)? == before {
            return observed;
        }
    }
    Err(io::Error::new(io::ErrorKind::ResourceBusy, "the rule set does not stop changing"))
}

/// Reads these sets and the rules of these chains alone, while others may change. What is not there is left out. It costs
/// what is read, however many rules there are.
pub fn observe_these(
    link: &mut dyn Dump,
    sets: &[(Family, Name, SetType)],
    chains: &[(Family, Name)],
) -> io::Result<Observed> {
    let mut observed = Observed::default();
    for (family, name, ty) in sets {
        let table = observed.families.entry(*family).or_default();
        let (elements, counts) = (BTreeMap::new(), BTreeMap::new());
        let mut set = ObservedSet { ty: ty.clone(), strange: false, elements, counts };
        if is_there(sets::read_until_whole(link, super::message::family_number(*family), name, &mut set))? {
            table.sets.insert(name.clone(), set);
        }
    }
    for (family, name) in chains {
        let table = observed.families.entry(*family).or_default();
        let chain = ObservedChain { hook: None, strange: false, rules: Vec::new() };
        table.chains.insert(name.clone(), chain);
        let (number, constants) = (super::message::family_number(*family), BTreeMap::new());
        if !is_there(read_rules(link, number, table, &constants, Some(name)))? {
            table.chains.remove(name);
        }
    }
    Ok(observed)
}

/// What is gone between two looks is no failure.
fn is_there(outcome: io::Result<()>) -> io::Result<bool> {
    match outcome {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        outcome => outcome.map(|()| true),
    }
}

/// Reads the elements of these sets, with whatever else of our tables they need to be found.
pub fn observe_sets(link: &mut dyn Dump, is_wanted: &dyn Fn(&str) -> bool) -> io::Result<Observed> {
    let mut families = tables(link)?;
    for (family, table) in &mut families {
        let number = super::message::family_number(*family);
        sets::list(link, number, table)?;
        table.sets.retain(|name, _| is_wanted(name));
        sets::read_all_elements(link, number, table)?;
    }
    Ok(Observed { families })
}

/// Which of our tables exist, and whether they have an owner: what little must be known before a change.
pub fn tables(link: &mut dyn Dump) -> io::Result<BTreeMap<Family, ObservedTable>> {
    let mut families = BTreeMap::new();
    ask(link, &DumpRequest::dump(libc::NFT_MSG_GETTABLE, 0, |_| {}), &mut |message| {
        let attributes = body(message);
        if attribute(attributes, TABLE_NAME).map(text).as_deref() == Some(TABLE)
            && let Some(family) = message.payload.first().and_then(|number| family_of(*number))
        {
            let flags = attribute(attributes, TABLE_FLAGS).and_then(number).unwrap_or(0);
            let port = attribute(attributes, TABLE_OWNER).and_then(number);
            // When its owner is gone, the kernel takes the first flag off and leaves the second.
            let owner = flags & (TABLE_F_OWNER | TABLE_F_PERSIST) != 0;
            let strange = flags & !(TABLE_F_OWNER | TABLE_F_PERSIST) != 0;
            let table = ObservedTable { owner, port, strange, ..Default::default() };
            families.insert(family, table);
        }
    })?;
    Ok(families)
}

/// Asks, and takes only what answers the question: to every `GET` belongs the `NEW` before it.
fn ask(link: &mut dyn Dump, request: &DumpRequest, each: &mut dyn FnMut(&Received<'_>)) -> io::Result<()> {
    let answer = (libc::NFNL_SUBSYS_NFTABLES as u16) << 8 | (request.0.kind - 1);
    link.dump(request, &mut |message| {
        if message.kind == answer {
            each(message);
        }
    })
}

fn generation(link: &mut dyn Dump) -> io::Result<Option<u32>> {
    let mut generation = None;
    ask(link, &DumpRequest::generation(), &mut |message| {
        generation = attribute(body(message), GEN_ID).and_then(number).or(generation);
    })?;
    Ok(generation)
}

fn observe_once(link: &mut dyn Dump) -> io::Result<Observed> {
    let mut families = tables(link)?;
    for (family, table) in &mut families {
        let number = super::message::family_number(*family);
        read_chains(link, number, table)?;
        let constants = sets::list(link, number, table)?;
        table.strange |= has_others(link, number)?;
        sets::read_all_elements(link, number, table)?;
        let constants = sets::read_constants(link, number, constants)?;
        read_rules(link, number, table, &constants, None)?;
    }
    Ok(Observed { families })
}

/// Whether our table of a family holds objects or flowtables, of which we make none.
fn has_others(link: &mut dyn Dump, family: u8) -> io::Result<bool> {
    let mut found = false;
    for kind in [libc::NFT_MSG_GETOBJ, MSG_GET_FLOWTABLES] {
        let request = DumpRequest::dump(kind, family, |a| a.text(OTHER_TABLE, TABLE));
        ask(link, &request, &mut |message| found |= ours(body(message), OTHER_TABLE))?;
    }
    Ok(found)
}

fn read_chains(link: &mut dyn Dump, family: u8, table: &mut ObservedTable) -> io::Result<()> {
    let request = DumpRequest::dump(libc::NFT_MSG_GETCHAIN, family, |a| a.text(CHAIN_TABLE, TABLE));
    ask(link, &request, &mut |message| {
        let attributes = body(message);
        if let Some(name) = ours(attributes, CHAIN_TABLE).then(|| named(attributes, CHAIN_NAME)).flatten() {
            let hook = attribute(attributes, CHAIN_HOOK).and_then(|hook| read_hook(family, hook));
            let strange = is_strange(attributes, hook.as_ref());
            table.chains.insert(name, ObservedChain { hook, strange, rules: Vec::new() });
        }
    })
}

/// Whether a chain is made in a way in which we make none.
fn is_strange(chain: &[u8], hook: Option<&Hook>) -> bool {
    let flags = attribute(chain, CHAIN_FLAGS).and_then(number).unwrap_or(0);
    let Some(base) = attribute(chain, CHAIN_HOOK) else { return flags != 0 };
    let accepts = attribute(chain, CHAIN_POLICY).and_then(number) == Some(libc::NF_ACCEPT as u32);
    let filters = attribute(chain, CHAIN_TYPE).map(text).as_deref() == Some("filter");
    let several = attribute(base, HOOK_DEVICES).is_some_and(|devices| attributes(devices).count() > 1);
    hook.is_none() || !accepts || !filters || several || flags & !CHAIN_F_BASE != 0
}

fn read_hook(family: u8, hook: &[u8]) -> Option<Hook> {
    let point = match (i32::from(family), attribute(hook, HOOK_NUMBER).and_then(number)?.cast_signed()) {
        (libc::NFPROTO_NETDEV, libc::NF_NETDEV_INGRESS) => HookPoint::Ingress,
        (libc::NFPROTO_NETDEV, libc::NF_NETDEV_EGRESS) => HookPoint::Egress,
        (libc::NFPROTO_INET, libc::NF_INET_INGRESS) => HookPoint::Ingress,
        (_, libc::NF_INET_PRE_ROUTING) => HookPoint::Prerouting,
        (_, libc::NF_INET_LOCAL_IN) => HookPoint::Input,
        (_, libc::NF_INET_FORWARD) => HookPoint::Forward,
        (_, libc::NF_INET_LOCAL_OUT) => HookPoint::Output,
        (_, libc::NF_INET_POST_ROUTING) => HookPoint::Postrouting,
        _ => return None,
    };
    let priority = attribute(hook, HOOK_PRIORITY).and_then(number)?.cast_signed();
    // Of several or of a prefix, the chain is strange, or its device has no name like it.
    let listed = || attributes(attribute(hook, HOOK_DEVICES)?).next().map(|(_, device)| text(device));
    let device = attribute(hook, HOOK_DEVICE).map(text).or_else(listed);
    Some(Hook { point, priority, device })
}

/// The rules of one chain, or of all.
fn read_rules(
    link: &mut dyn Dump,
    family: u8,
    table: &mut ObservedTable,
    constants: &BTreeMap<String, Content>,
    chain: Option<&Name>,
) -> io::Result<()> {
    let request = DumpRequest::dump(libc::NFT_MSG_GETRULE, family, |a| {
        a.text(RULE_TABLE, TABLE);
        chain.iter().for_each(|chain| a.text(RULE_CHAIN, chain));
    });
    ask(link, &request, &mut |message| {
        let attributes = body(message);
        let chain = ours(attributes, RULE_TABLE).then(|| named(attributes, RULE_CHAIN)).flatten();
        if let Some(chain) = chain.and_then(|chain| table.chains.get_mut(&chain)) {
            chain.rules.push(read_rule(attributes, constants));
        }
    })
}

fn read_rule(rule: &[u8], constants: &BTreeMap<String, Content>) -> ObservedRule {
    let notes = attribute(rule, RULE_USERDATA).unwrap_or_default();
    let expressions = attribute(rule, RULE_EXPRESSIONS).unwrap_or_default();
    ObservedRule {
        handle: attribute(rule, RULE_HANDLE).and_then(long).unwrap_or(0),
        digest: note(notes, UDATA_DIGEST).filter(|value| value.len() == 8).and_then(long),
        form: form::of_dump(expressions, constants),
        comment: note(notes, UDATA_COMMENT).map(text),
        counter: attributes(expressions).find_map(|(_, expression)| read_counter(expression)),
        tally: read_tally(expressions),
        goto: attributes(expressions).find_map(|(_, expression)| read_goto(expression)),
    }
}

fn read_goto(expression: &[u8]) -> Option<Name> {
    attribute(expression, EXPR_NAME).filter(|name| text(name) == "immediate")?;
    let verdict = attribute(attribute(attribute(expression, EXPR_DATA)?, IMMEDIATE_DATA)?, DATA_VERDICT)?;
    let is_goto = attribute(verdict, VERDICT_CODE).and_then(number)?.cast_signed() == libc::NFT_GOTO;
    is_goto.then(|| named(verdict, VERDICT_CHAIN)).flatten()
}

/// What a rule marks frames with on the way to a chain that counts them.
fn read_tally(expressions: &[u8]) -> Option<u32> {
    let named = |name: &'static str| {
        let is =
            move |expression: &&[u8]| attribute(expression, EXPR_NAME).is_some_and(|own| text(own) == name);
        attributes(expressions).map(|(_, expression)| expression).filter(is)
    };
    named("meta").find(|expression| sets_mark(expression))?;
    named("immediate").find_map(|expression| {
        let value = attribute(attribute(attribute(expression, EXPR_DATA)?, IMMEDIATE_DATA)?, DATA_VALUE)?;
        Some(u32::from_ne_bytes(value.try_into().ok()?))
    })
}

fn sets_mark(expression: &[u8]) -> bool {
    let data = attribute(expression, EXPR_DATA).unwrap_or_default();
    let key = attribute(data, META_KEY).and_then(number);
    key == Some(libc::NFT_META_MARK as u32) && attribute(data, META_SREG).is_some()
}

fn read_counter(expression: &[u8]) -> Option<(u64, u64)> {
    attribute(expression, EXPR_NAME).filter(|name| text(name) == "counter")?;
    let data = attribute(expression, EXPR_DATA)?;
    let count = |kind| attribute(data, kind).and_then(long);
    Some((count(COUNTER_PACKETS)?, count(COUNTER_BYTES)?))
}

/// Old kernels dump all tables, whatever was asked for.
fn ours(attributes: &[u8], table: u16) -> bool {
    attribute(attributes, table).map(text).as_deref() == Some(TABLE)
}

fn named(attributes: &[u8], kind: u16) -> Option<Name> {
    attribute(attributes, kind).map(|name| text(name).into())
}

pub(super) fn family_of(number: u8) -> Option<Family> {
    [Family::Bridge, Family::Inet, Family::Netdev]
        .into_iter()
        .find(|family| super::message::family_number(*family) == number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::ir::{Action, ElementValue, KeyType, Rule, ValueType, concat};
    use crate::ruleset::nft::announcement::Decoder;
    use crate::ruleset::nft::reply::messages;
    use crate::ruleset::nft::{Ownership, encode};
    use crate::ruleset::plan::{Step, TableOperation};
    use proptest::prelude::*;

    /// A kernel that answers every question with the same bytes.
    struct Parrot(Vec<u8>);

    impl Dump for Parrot {
        fn dump(&mut self, _: &DumpRequest, each: &mut dyn FnMut(&Received<'_>)) -> io::Result<()> {
            messages(&self.0).for_each(|message| each(&message));
            Ok(())
        }
    }

    /// What a kernel announces of a table is what makes the table: the same messages.
    fn announced() -> Vec<u8> {
        let kind = SetType {
            key: vec![KeyType::IfIndex, KeyType::Ether],
            data: ValueType::Verdict,
            dynamic: false,
            counted: false,
        };
        let key = concat(&[&[5, 0, 0, 0], &[1, 2, 3, 4, 5, 6]]);
        let hook = Hook { point: HookPoint::Prerouting, priority: -5, device: None };
        let rule = Rule { counter: true, ..Rule::new(vec![], Action::Drop) };
        let steps = [
            TableOperation::AddTable,
            TableOperation::AddChain("c".into(), Some(hook)),
            TableOperation::AddSet("s".into(), kind.clone()),
            TableOperation::AddElements("s".into(), kind, vec![(key, ElementValue::Jump("c".into()))]),
            TableOperation::AddRule("c".into(), rule),
        ]
        .map(|change| Step { family: Family::Bridge, change });
        let encoded = encode(&steps, |_| Ownership::Shared).unwrap();
        encoded.messages.iter().flat_map(|message| message.bytes(1)).collect()
    }

    #[test]
    fn what_was_sent_is_understood() {
        let table = observe(&mut Parrot(announced())).unwrap().families.remove(&Family::Bridge).unwrap();
        let set = &table.sets["s"];
        assert_eq!(set.ty.key, [KeyType::IfIndex, KeyType::Ether]);
        assert_eq!(set.elements.values().collect::<Vec<_>>(), [&ElementValue::Jump("c".into())]);
        assert_eq!(table.chains["c"].hook.as_ref().unwrap().priority, -5);
    }

    fn survive(bytes: Vec<u8>) {
        let mut decoder = Decoder::default();
        decoder.read(&bytes);
        messages(&bytes).for_each(|message| drop(crate::ruleset::nft::reply::error(&message)));
        let _ = observe(&mut Parrot(bytes));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            survive(bytes);
        }

        #[test]
        fn no_change_of_an_answer_makes_the_reader_panic(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
            end in any::<prop::sample::Index>(),
        ) {
            let mut bytes = announced();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(end.index(bytes.len() + 1));
            survive(bytes);
        }
    }
}
