//! What the page of a command says besides its options: examples, exit status, files, environment, and where to read on.
//!
//! The name of a page turns into text in roff. Knows nothing of clap.

use roff::{Roff, bold, roman};

/// A term and what it means.
type Item = (&'static str, &'static str);

const EXIT: &[Item] = &[
    ("0", "Done."),
    ("1", "A document or a value is at fault; nothing has changed."),
    ("2", "The command line is wrong."),
    (
        "3",
        "The host refuses: no such interface, no permission, a refusal of the kernel; nothing has changed.",
    ),
];

const FILES: &[Item] = &[
    ("/etc/libvirt/nwfilter", "Filters, one XML file each. The 24 standard filters are inside the program."),
    ("/run/libvirt/nwfilter-binding", "Bindings."),
    ("/run/libvirt/virtnwfilterd-sock", "The socket of the daemon. Where the daemon runs, it does the work."),
];

const ENVIRONMENT: &[Item] =
    &[("NWFILTER_RUNTIME_DIR", "Where the socket and the bindings are, in place of /run/libvirt.")];

const DAEMON_EXIT: &[Item] = &[
    ("0", "Ended by SIGTERM or SIGINT, or idle for as long as the timeout says. All rules stay in force."),
    ("1", "The daemon cannot start or go on; the log says why."),
    ("2", "The command line is wrong."),
];

const SIGNALS: &[Item] = &[
    ("SIGHUP", "Read filters and configuration again. Keys that need a restart are logged."),
    ("SIGTERM, SIGINT", "End. All rules stay in force."),
];

const DAEMON_FILES: &[Item] = &[
    ("/etc/nwfilter/nwfilterd.conf", "The configuration: nwfilterd.conf(5)."),
    ("/etc/libvirt/nwfilter", "Filters, one XML file each: nwfilter-filter(7)."),
    ("/var/lib/nwfilter", "Learned addresses, leases, and which standard filters were edited or deleted."),
    ("/run/libvirt/nwfilter-binding", "Bindings."),
    ("/run/libvirt/virtnwfilterd-sock, virtnwfilterd-sock-ro", "The sockets."),
];

const DAEMON_ENVIRONMENT: &[Item] = &[
    ("LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES", "Sockets that systemd opened."),
    ("NOTIFY_SOCKET, WATCHDOG_USEC", "Where the daemon notifies systemd that it is ready and alive."),
];

/// Examples of each command.
const EXAMPLES: &[(&str, &[Item])] = &[
    (
        "nwfilter",
        &[
            (
                "nwfilter apply --dev vnet0 --mac 52:54:00:00:00:01 --filter clean-traffic --param IP=10.0.0.1",
                "Bind a guest's interface.",
            ),
            ("nwfilter status", "See what is in force."),
        ],
    ),
    (
        "nwfilter-check",
        &[
            ("nwfilter check web.xml", "Every fault, with its line."),
            (
                "nwfilter check --audit /etc/libvirt/nwfilter/*.xml",
                "Also unreachable rules, and what differs from libvirt.",
            ),
        ],
    ),
    ("nwfilter-fmt", &[("nwfilter fmt --write web.xml", "Write the file as libvirt would print it.")]),
    (
        "nwfilter-compile",
        &[(
            "nwfilter compile --filter clean-traffic --param MAC=52:54:00:00:00:01 --param IP=10.0.0.1",
            "The rules, as nft would write them.",
        )],
    ),
    (
        "nwfilter-apply",
        &[
            (
                "nwfilter apply --dev vnet0 --mac 52:54:00:00:00:01 --filter clean-traffic --param IP=10.0.0.1",
                "Bind, or replace the binding that is there.",
            ),
            (
                "nwfilter apply --dev vnet0 --mac 52:54:00:00:00:01 --filter clean-traffic --param CTRL_IP_LEARNING=dhcp",
                "Have the daemon learn the address from DHCP.",
            ),
        ],
    ),
    (
        "nwfilter-plan",
        &[(
            "nwfilter plan --dev vnet0 --mac 52:54:00:00:00:01 --filter web --param IP=10.0.0.1",
            "See the change first.",
        )],
    ),
    (
        "nwfilter-define",
        &[("nwfilter define web.xml", "Define or replace a filter, for all guests that use it.")],
    ),
    ("nwfilter-undefine", &[("nwfilter undefine web", "Undefine it, if no interface uses it.")]),
    (
        "nwfilter-remove",
        &[
            ("nwfilter remove --dev vnet0", "Unbind one interface."),
            ("nwfilter remove --all", "Unbind all. Nothing is filtered afterwards."),
        ],
    ),
    (
        "nwfilter-explain",
        &[
            ("nwfilter explain --dev vnet0 --tcp 10.0.0.1:4000,10.0.0.2:80", "A frame from the guest."),
            ("nwfilter explain --dev vnet0 --in --icmp 10.0.0.2,10.0.0.1", "A frame to it."),
            ("nwfilter explain --dev vnet0 --pcap capture.pcap --packet 3", "A frame of a capture."),
        ],
    ),
    (
        "nwfilter-trace",
        &[
            ("nwfilter trace --dev vnet0 --drops", "What is dropped, as it comes."),
            ("nwfilter trace --dev vnet0 --pcapng - | wireshark -k -i -", "In Wireshark, with the reasons."),
        ],
    ),
    (
        "nwfilter-status",
        &[
            ("nwfilter status --dev vnet0", "One interface, with what each rule dropped."),
            ("nwfilter status --json", "For programs."),
        ],
    ),
    ("nwfilter-ipset", &[("nwfilter ipset add admins 10.0.0.9", "Put an address into a set.")]),
    (
        "nwfilter-ipset-add",
        &[("nwfilter ipset add admins 10.0.0.9 2001:db8::9", "Put addresses into a set.")],
    ),
    ("nwfilter-ipset-del", &[("nwfilter ipset del admins 10.0.0.9", "Take an address out of a set.")]),
    ("nwfilter-ipset-list", &[("nwfilter ipset list admins", "Print the addresses.")]),
    ("nwfilter-ipset-flush", &[("nwfilter ipset flush admins", "Empty a set, or create an empty one.")]),
    (
        "nwfilter-completions",
        &[("nwfilter completions bash >/etc/bash_completion.d/nwfilter", "Complete words in bash.")],
    ),
    ("nwfilter-man", &[("nwfilter man --dir /tmp/man", "Write the pages there.")]),
    (
        "nwfilterd",
        &[
            ("nwfilterd --check-config", "Say what is wrong with the configuration."),
            ("systemctl enable --now nwfilterd.socket nwfilterd.service", "Start it, now and at each boot."),
        ],
    ),
];

/// The sections of a page, by its name.
pub(super) fn of(page: &str) -> String {
    let mut roff = Roff::new();
    let examples = EXAMPLES.iter().find(|(name, _)| *name == page).map_or(&[][..], |(_, examples)| examples);
    items(&mut roff, "EXAMPLES", examples);
    if page == "nwfilterd" {
        items(&mut roff, "SIGNALS", SIGNALS);
        items(&mut roff, "EXIT STATUS", DAEMON_EXIT);
        items(&mut roff, "FILES", DAEMON_FILES);
        items(&mut roff, "ENVIRONMENT", DAEMON_ENVIRONMENT);
    } else {
        items(&mut roff, "EXIT STATUS", EXIT);
        items(&mut roff, "FILES", FILES);
        items(&mut roff, "ENVIRONMENT", ENVIRONMENT);
    }
    see_also(&mut roff, page);
    roff.render()
}

/// How a command is called, from clap's usage.
pub(super) fn synopsis(usage: &str) -> String {
    let mut roff = Roff::new();
    let calls = usage.strip_prefix("Usage: ").unwrap_or(usage);
    roff.control("SH", ["SYNOPSIS"]).text([roman(calls)]);
    roff.to_roff()
}

/// A section of terms.
fn items(roff: &mut Roff, title: &str, items: &[Item]) {
    if !items.is_empty() {
        roff.control("SH", [title]);
    }
    for (term, meaning) in items {
        roff.control("TP", []).text([bold(*term)]).text([roman(*meaning)]);
    }
}

/// The other pages that belong to it.
pub(super) fn see_also(roff: &mut Roff, page: &str) {
    let pages = [
        ("nwfilter", "1"),
        ("nwfilterd", "8"),
        ("nwfilterd.conf", "5"),
        ("nwfilter-filter", "7"),
        ("nft", "8"),
        ("virsh", "1"),
    ];
    let others: Vec<String> = pages
        .iter()
        .filter(|(name, _)| *name != page)
        .map(|(name, section)| format!("{name}({section})"))
        .collect();
    roff.control("SH", ["SEE ALSO"]).text([roman(others.join(", "))]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::man::all;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_an_example_and_no_example_is_of_another() {
        let mut cli = crate::cli::Cli::command().disable_help_subcommand(true);
        cli.build();
        let mut names: Vec<&str> = all(&cli)
            .iter()
            .map(|command| command.get_display_name().unwrap_or(command.get_name()))
            .collect();
        names.push("nwfilterd");
        let of: Vec<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        names.iter().for_each(|name| assert!(of.contains(name), "{name} has no example"));
        of.iter().for_each(|name| assert!(names.contains(name), "{name} is no page"));
    }

    #[test]
    fn every_example_in_the_manual_is_a_valid_command_line() {
        use clap::Parser;
        let lines = EXAMPLES.iter().flat_map(|(_, examples)| examples.iter()).map(|(line, _)| *line);
        for line in lines.filter(|line| line.starts_with("nwfilter ")) {
            let words = line.split([' ']).take_while(|word| !matches!(*word, "|") && !word.starts_with('>'));
            let parsed = crate::cli::Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}
