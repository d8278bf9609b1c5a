//! Values of `--param` for a binding: those that a binding cannot hold are refused, whatever reads them.
//!
//! libvirt leaves such a parameter out of a binding, and a guest whose address is left out may choose one.

use super::{Failure, Outcome};
use crate::document::diag::{Code, Diagnostic};
use crate::document::vars::is_value;

/// Refuses all values that a binding cannot hold.
pub(super) fn check(params: &[(String, String)]) -> Outcome {
    let faults: Vec<Diagnostic> =
        params.iter().filter(|(_, value)| !is_value(value)).map(|(name, value)| fault(name, value)).collect();
    if faults.is_empty() { Ok(()) } else { Err(Failure::Faults(faults)) }
}

fn fault(name: &str, value: &str) -> Diagnostic {
    let message =
        format!("parameter {name}: {value:?} is no value: letters, digits, '_', '.' and ':' can be in one");
    Diagnostic::error(Code::INVALID_ARG, message).help(way_out(name, value))
}

fn way_out(name: &str, value: &str) -> String {
    let first =
        value.split(['/', ',', ' ']).map(|part| part.trim_matches(['[', ']'])).find(|part| is_value(part));
    let first = first.unwrap_or("VALUE");
    match value {
        _ if value.contains('/') => {
            format!("give the address alone, --param {name}={first}, and its mask by a parameter of its own")
        }
        _ if value.contains(',') => {
            format!("give each value by itself: --param {name}={first} --param {name}=...")
        }
        _ if value.contains('-') => format!("write it with ':': --param {name}={}", value.replace('-', ":")),
        _ => format!("for example --param {name}={first}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_no_binding_can_hold_is_refused_with_a_hint() {
        let refused = |value: &str| match check(&[("IP".into(), value.into())]) {
            Err(Failure::Faults(faults)) => Some(faults[0].help.clone().unwrap()),
            _ => None,
        };
        for (value, help) in [
            ("10.0.0.5/24", "--param IP=10.0.0.5, and its mask"),
            ("10.0.0.5,10.0.0.6", "--param IP=10.0.0.5 --param IP=..."),
            ("[10.0.0.5, 10.0.0.6]", "--param IP=10.0.0.5 --param"),
            ("10.0.0.5 ", "for example --param IP=10.0.0.5"),
            ("52-54-00-aa-aa-01", "--param IP=52:54:00:aa:aa:01"),
            ("", "--param IP=VALUE"),
        ] {
            let reason = refused(value).unwrap_or_default();
            assert!(reason.contains(help), "{value:?}: {reason}");
        }
        assert_eq!(refused("10.0.0.5").or(refused("fe80::1")).or(refused("a_b.c")), None);
    }
}
