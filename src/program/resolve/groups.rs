//! The attributes of a rule joined into statements: an address with its mask, a port with the end of its range,
//! an ICMP type with its code where both are negated. A group whose variables have values is a [`Predicate`].
//!
//! An attribute that means nothing without another is refused, for without it the rule would be broader.

use super::Predicate;
use super::walk::Instance;
use crate::document::diag::{Code, Diagnostic};
use crate::document::field::Field;
use crate::document::filter::schema::{AttributeRole, ValueKind};
use crate::document::filter::{AttributeTest, FilterRule, Value};
use crate::document::vars::Access;
use crate::program::ir::{Bytes, KeyType};

/// What one statement of a rule consists of.
pub(super) struct Statement<'a> {
    pub(super) parts: Vec<Joined<'a>>,
    pub(super) negated: bool,
}

/// An attribute and the one that completes it.
#[derive(Clone, Copy)]
pub(super) struct Joined<'a> {
    pub(super) base: &'a AttributeTest,
    pub(super) companion: Option<&'a AttributeTest>,
}

/// Gives an attribute its value, reading the variable where it is one.
pub(super) type ValueReader<'a> = &'a dyn Fn(&AttributeTest) -> Result<Value, Diagnostic>;

/// The variable that is an attribute's value.
pub(super) fn access(entry: &AttributeTest) -> Option<&Access> {
    match &entry.value {
        Value::Variable(access) => Some(access),
        _ => None,
    }
}

/// The statements of a rule in the order of its attributes.
pub(super) fn groups(instance: &Instance) -> Result<Vec<Statement<'_>>, Vec<Diagnostic>> {
    let rule = &*instance.rule;
    let lonely: Vec<Diagnostic> =
        rule.matches.iter().filter_map(|entry| is_lonely(rule, entry, instance)).collect();
    if !lonely.is_empty() {
        return Err(lonely);
    }
    let bases = rule.matches.iter().filter(|entry| !is_companion(entry.attribute.role));
    let mut groups: Vec<Statement<'_>> = Vec::new();
    for base in bases {
        let joined = Joined { base, companion: companion(rule, base) };
        match groups.last_mut() {
            Some(last) if is_pair(last, base) => last.parts.push(joined),
            _ => groups.push(Statement { parts: vec![joined], negated: base.negated }),
        }
    }
    Ok(groups)
}

fn is_companion(role: AttributeRole) -> bool {
    matches!(
        role,
        AttributeRole::MaskOf(_)
            | AttributeRole::EndOf(_)
            | AttributeRole::IpsetFlags
            | AttributeRole::Comment
    )
}

/// The attribute that this one needs beside it.
fn needs(role: AttributeRole) -> Option<&'static str> {
    match role {
        AttributeRole::MaskOf(base) | AttributeRole::EndOf(base) => Some(base),
        AttributeRole::IpsetFlags => Some("ipset"),
        AttributeRole::Ipset => Some("ipsetflags"),
        _ => None,
    }
}

fn is_lonely(rule: &FilterRule, entry: &AttributeTest, instance: &Instance) -> Option<Diagnostic> {
    let other = needs(entry.attribute.role)?;
    if rule.matches.iter().any(|entry| entry.attribute.name == other) {
        return None;
    }
    let name = entry.attribute.name;
    let message = format!("attribute '{name}' has no meaning without '{other}'");
    let fault = Diagnostic::error(Code::INTERNAL, message).at(instance.place(entry.span), "alone here");
    Some(fault.help(format!("give '{other}' as well, or leave '{name}' out")))
}

fn companion<'a>(rule: &'a FilterRule, base: &AttributeTest) -> Option<&'a AttributeTest> {
    rule.matches.iter().find(|entry| {
        is_companion(entry.attribute.role) && needs(entry.attribute.role) == Some(base.attribute.name)
    })
}

/// Type and code that are negated together are one statement: not this type with this code.
fn is_pair(last: &Statement<'_>, base: &AttributeTest) -> bool {
    let first = last.parts[0].base.attribute.role;
    let types = [(Field::IcmpType, Field::IcmpCode), (Field::Icmp6Type, Field::Icmp6Code)];
    let pair = types
        .iter()
        .any(|(t, c)| first == AttributeRole::Is(*t) && base.attribute.role == AttributeRole::Is(*c));
    pair && last.negated && base.negated
}

impl Statement<'_> {
    /// The attributes it consists of.
    pub(super) fn entries(&self) -> impl Iterator<Item = &AttributeTest> {
        self.parts.iter().flat_map(|part| std::iter::once(part.base).chain(part.companion))
    }

    /// What it says of a frame, if it says anything.
    pub(super) fn test(
        &self,
        instance: &Instance,
        values: ValueReader<'_>,
    ) -> Result<Option<Predicate>, Diagnostic> {
        let tests: Result<Vec<Option<Predicate>>, Diagnostic> =
            self.parts.iter().map(|part| part.test(instance, values)).collect();
        let mut tests: Vec<Predicate> = tests?.into_iter().flatten().collect();
        Ok(if tests.len() > 1 { Some(Predicate::All(tests)) } else { tests.pop() })
    }
}

impl Joined<'_> {
    /// The field and the type of its set, if the attribute is one whose values can be elements.
    pub(super) fn element(&self) -> Option<(Field, KeyType)> {
        let AttributeRole::Is(field) = self.base.attribute.role else { return None };
        let kind = match self.base.attribute.kind {
            ValueKind::Mac => KeyType::Ether,
            ValueKind::Ipv4 => KeyType::Ipv4,
            ValueKind::Ipv6 => KeyType::Ipv6,
            ValueKind::U16 if matches!(field, Field::ThSport | Field::ThDport) => KeyType::Port,
            _ => return None,
        };
        Some((field, kind))
    }

    fn test(&self, instance: &Instance, values: ValueReader<'_>) -> Result<Option<Predicate>, Diagnostic> {
        let value = values(self.base)?;
        let companion = self.companion.map(|entry| Ok((entry, values(entry)?))).transpose()?;
        Ok(match (self.base.attribute.role, value) {
            (AttributeRole::Is(field), value) => Some(self.field_test(instance, field, &value, companion)?),
            (AttributeRole::UpperProtocol, Value::Number { value, .. }) => {
                Some(Predicate::UpperProtocol(value as u8))
            }
            (AttributeRole::Gratuitous, Value::Bool(asked)) => asked.then_some(Predicate::Gratuitous),
            (AttributeRole::TcpOption, Value::Number { value, .. }) => {
                Some(Predicate::TcpOption(value as u8))
            }
            (AttributeRole::TcpFlags, Value::TcpFlags { mask, flags }) => {
                Some(Predicate::TcpFlags { mask, flags })
            }
            (AttributeRole::State, Value::States(states)) => {
                (states != 0).then_some(Predicate::State(states))
            }
            (AttributeRole::ConnLimit, Value::Number { value, .. }) => Some(Predicate::ConnLimit(value)),
            (AttributeRole::Ipset, Value::Text(name)) => companion.and_then(|(_, sides)| match sides {
                Value::Sides(sides) => Some(Predicate::Ipset(name, sides)),
                _ => None,
            }),
            (role, value) => unreachable!("a value of its kind for {role:?}, not {value:?}"),
        })
    }

    fn field_test(
        &self,
        instance: &Instance,
        field: Field,
        value: &Value,
        companion: Option<(&AttributeTest, Value)>,
    ) -> Result<Predicate, Diagnostic> {
        let first = encode(field, value);
        let Some((entry, second)) = companion else {
            return Ok(Predicate::Equals { field, mask: None, value: first });
        };
        if matches!(entry.attribute.role, AttributeRole::MaskOf(_)) {
            let mask = leading_ones(prefix(&second), first.len());
            let value = masked(&first, &mask);
            let whole = mask.iter().all(|byte| *byte == 0xff);
            return Ok(Predicate::Equals { field, mask: (!whole).then_some(mask), value });
        }
        let last = encode(field, &second);
        if first > last {
            let message = format!(
                "the range of '{}' ends with '{}' before it begins",
                self.base.attribute.name, entry.attribute.name
            );
            let place = instance.place(entry.span);
            return Err(Diagnostic::error(Code::INTERNAL, message).at(place, "less than its beginning"));
        }
        let single = first == last;
        Ok(if single {
            Predicate::Equals { field, mask: None, value: first }
        } else {
            Predicate::Between { field, from: first, to: last }
        })
    }
}

/// A value as the bytes that the field is loaded as.
pub(super) fn encode(field: Field, value: &Value) -> Bytes {
    let layout = field.layout();
    match value {
        Value::Number { value, .. } => {
            let bytes = (value << layout.shift).to_be_bytes();
            bytes[4 - layout.length as usize..].into()
        }
        value => address(value),
    }
}

/// A MAC or IP address as bytes.
pub(super) fn address(value: &Value) -> Bytes {
    match value {
        Value::Mac(mac) => mac.0.into(),
        Value::Ipv4(address) => address.octets().into(),
        Value::Ipv6(address, _) => address.octets().into(),
        other => unreachable!("a field is a number or an address, not {other:?}"),
    }
}

/// How many leading bits a mask has.
pub(super) fn prefix(mask: &Value) -> u8 {
    match mask {
        Value::Prefix(length) => *length,
        Value::Mac(mac) => mac.0.iter().map(|octet| octet.count_ones() as u8).sum(),
        other => unreachable!("a mask is a length or a MAC mask, not {other:?}"),
    }
}

/// A mask of this many leading bits in so many bytes.
pub(crate) fn leading_ones(prefix: u8, bytes: usize) -> Bytes {
    let ones = |byte: usize| usize::from(prefix).saturating_sub(8 * byte).min(8);
    (0..bytes).map(|byte| !(0xffu16 >> ones(byte)) as u8).collect()
}

/// Only the bits of the mask.
pub(super) fn masked(value: &[u8], mask: &[u8]) -> Bytes {
    value.iter().zip(mask).map(|(value, mask)| value & mask).collect()
}
