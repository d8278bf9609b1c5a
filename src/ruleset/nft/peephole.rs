//! Joins comparisons of neighbouring fields into one, as nft does: fewer expressions, the same condition.

use crate::program::ir::Bytes;
use crate::program::ir::lower::{Op, Term, joinable};
use crate::program::ir::operand::LoadSource;

/// Joins comparisons of neighbouring fields, as nft does: sorted by their place, each run up to a statement that
/// is no match for itself.
pub(super) fn joined(terms: Vec<Term>) -> Vec<Term> {
    let mut slots: Vec<Option<Term>> = terms.into_iter().map(Some).collect();
    let is_statement = |slot: &Option<Term>| matches!(slot, Some(Term { test: Op::ConnLimit { .. }, .. }));
    let mut start = 0;
    while start < slots.len() {
        let end = slots[start..].iter().position(is_statement).map_or(slots.len(), |at| start + at);
        join_run(&mut slots[start..end]);
        start = end + 1;
    }
    slots.into_iter().flatten().collect()
}

fn join_run(slots: &mut [Option<Term>]) {
    let place = |slot: &Option<Term>| slot.as_ref().and_then(|term| term.test.whole(false));
    let mut order: Vec<usize> = (0..slots.len()).filter(|at| place(&slots[*at]).is_some()).collect();
    order.sort_by_key(|at| place(&slots[*at]).map(|(base, offset, _)| (base, offset)));
    let mut order = order.into_iter();
    let Some(mut last) = order.next() else { return };
    for this in order {
        let (first, second) = (place(&slots[last]), place(&slots[this]));
        let joins = first.zip(second).is_some_and(|(first, second)| joinable(first, second));
        if !joins {
            last = this;
            continue;
        }
        let (Some(low), Some(high)) = (slots[last].take(), slots[this].take()) else { continue };
        // What tells the next protocol keeps its place; otherwise the first field keeps its own.
        let keep = if tells_protocol(&high) { this } else { last };
        slots[keep] = Some(join(low, high));
        last = keep;
    }
}

fn tells_protocol(term: &Term) -> bool {
    matches!(&term.test, Op::Compare { left, .. } if left.tells_protocol)
}

fn join(low: Term, high: Term) -> Term {
    match (low.test, high.test) {
        (Op::Compare { mut left, value, negated, .. }, Op::Compare { left: right, value: rest, .. }) => {
            if let (LoadSource::Payload { length, .. }, LoadSource::Payload { length: more, .. }) =
                (&mut left.source, right.source)
            {
                *length += more;
            }
            left.tells_protocol = right.tells_protocol;
            let value: Bytes = value.iter().chain(rest.iter()).copied().collect();
            Term { test: Op::Compare { left, negated, value }, implied: false }
        }
        _ => unreachable!("only comparisons have a place"),
    }
}
