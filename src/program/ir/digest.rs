//! Names rules by their content: equal rules have equal digests, on every build and machine.
//!
//! The digest is FNV-1a, 64 bits, over the printed text, as in a table of the bridge family. Where in its document a
//! rule stands does not count, which filter it comes from does. It tells content apart, it does not resist an
//! attacker: names made of it are checked against what they name.

use crate::program::ir::text::{ChainText, RuleText, SetText};
use crate::program::ir::{Chain, Family, Rule, Set};
use std::fmt::{self, Write};

/// A digest in the making, for content of several kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(u64);

/// The digest of chains with their names, in the order given.
pub fn digest<N: AsRef<str>, R: AsRef<[Rule]>>(chains: impl IntoIterator<Item = (N, R)>) -> u64 {
    let mut digest = Digest::default();
    for (name, rules) in chains {
        digest.chain(name.as_ref(), rules.as_ref());
    }
    digest.finish()
}

/// The digest of a text in 32 bits, never 0.
pub fn short(text: &str) -> u32 {
    let mut digest = Digest::default();
    digest.print(text);
    ((digest.0 >> 32) as u32 ^ digest.0 as u32).max(1)
}

/// The digest of one rule.
pub fn rule(rule: &Rule) -> u64 {
    let mut digest = Digest::default();
    digest.print(RuleText(Family::Bridge, rule));
    digest.finish()
}

impl Default for Digest {
    fn default() -> Digest {
        Digest(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Takes in a chain.
    pub fn chain(&mut self, name: &str, rules: &[Rule]) {
        self.print(ChainText(Family::Bridge, name, &Chain { hook: None, rules: rules.to_vec() }));
    }

    /// Takes in a set with its elements.
    pub fn set(&mut self, name: &str, set: &Set) {
        self.print(SetText(name, set));
    }

    /// The digest of all that was taken in.
    pub fn finish(self) -> u64 {
        self.0
    }

    fn print(&mut self, content: impl fmt::Display) {
        write!(self, "{content}").expect("a digest takes any text");
    }
}

impl Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::field::Field;
    use crate::document::span::{Place, Source, Span};
    use crate::program::ir::{Action, Key, Match, Origin};

    fn drops(field: Field, filter: &str, at: usize) -> Rule {
        let place = Place { source: Source::new("f.xml", "<filter/>"), span: Span::new(at..at + 1) };
        let origin = Origin { filter: filter.into(), rule: 2, id: 0, place };
        let matches = vec![Match::equals(Key::field(field), &[1, 2, 3, 4, 5, 6])];
        Rule { origin: Some(origin), ..Rule::new(matches, Action::Drop) }
    }

    #[test]
    fn only_content_counts() {
        let base = rule(&drops(Field::EtherSaddr, "a", 1));
        assert_eq!(base, rule(&drops(Field::EtherSaddr, "a", 5)), "another place in the document");
        assert_ne!(base, rule(&drops(Field::EtherDaddr, "a", 1)), "another field");
        assert_ne!(base, rule(&drops(Field::EtherSaddr, "b", 1)), "another filter");
        assert_ne!(base, rule(&Rule { counter: true, ..drops(Field::EtherSaddr, "a", 1) }), "counted");
    }

    #[test]
    fn a_digest_is_the_same_on_every_build() {
        let rules = [drops(Field::EtherSaddr, "a", 1)];
        assert_eq!(digest([("out", &rules)]), 0xb390_f9c4_220a_baaa);
    }
}
