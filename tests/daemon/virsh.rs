//! libvirt's own `virsh` against this daemon and against Debian's libvirtd: one script, and the same words from both.
//!
//! Where the two are meant to differ, [`DEPARTURES`] says how and why, for each version of libvirt that was compared with.

use crate::host::*;
use crate::lab::{in_fresh_netns, veth};
use crate::libvirtd::{Libvirtd, SOCKET, SOCKET_READ_ONLY, enclose};
use crate::tool::{InTime, available};
use Says::{This, WhatWeSay};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Documents that the script refers to by name.
const FILES: &[(&str, &str)] = &[
    (
        "one.xml",
        "<filter name='one' chain='root'><uuid>11111111-2222-3333-4444-555555555555</uuid><rule action='drop' direction='out' priority='500'><mac match='no' srcmacaddr='$MAC'/></rule></filter>",
    ),
    (
        "one-again.xml",
        "<filter name='one' chain='root'>\n<uuid>11111111-2222-3333-4444-555555555555</uuid><rule action='drop' direction='out'><ip srcipaddr='10.1.2.3' srcipmask='24' protocol='tcp' dstportstart='80'/></rule></filter>",
    ),
    ("one-no-uuid.xml", "<filter name='one'/>"),
    ("one-other-uuid.xml", "<filter name='one'><uuid>99999999-2222-3333-4444-555555555555</uuid></filter>"),
    ("thief.xml", "<filter name='thief'><uuid>11111111-2222-3333-4444-555555555555</uuid></filter>"),
    (
        "two.xml",
        "<filter name='two'><uuid>22222222-2222-3333-4444-555555555555</uuid><filterref filter='one'/><filterref filter='one'><parameter name='IP' value='10.0.0.1'/></filterref></filter>",
    ),
    (
        "loop.xml",
        "<filter name='one'><uuid>11111111-2222-3333-4444-555555555555</uuid><filterref filter='two'/></filter>",
    ),
    ("self.xml", "<filter name='self'><filterref filter='self'/></filter>"),
    (
        "dangling.xml",
        "<filter name='dangling'><uuid>33333333-2222-3333-4444-555555555555</uuid><filterref filter='nowhere'/></filter>",
    ),
    (
        "needy.xml",
        "<filter name='needy'><uuid>44444444-2222-3333-4444-555555555555</uuid><rule action='drop' direction='out'><tcp dstportstart='$PORT'/></rule></filter>",
    ),
    ("action.xml", "<filter name='bad'><rule action='explode' direction='out'/></filter>"),
    ("direction.xml", "<filter name='bad'><rule action='drop'/></filter>"),
    ("nameless.xml", "<filter><rule action='drop' direction='out'/></filter>"),
    ("chain.xml", "<filter name='bad' chain='sausage'/>"),
    ("priority.xml", "<filter name='bad' priority='9999999'/>"),
    ("uuid.xml", "<filter name='bad'><uuid>nonsense</uuid></filter>"),
    ("root.xml", "<network name='bad'/>"),
    ("broken.xml", "<filter name='bad'>"),
    ("text.xml", "not xml"),
    ("slash.xml", "<filter name='../bad'><uuid>55555555-2222-3333-4444-555555555555</uuid></filter>"),
    (
        "long.xml",
        "<filter name='everything' chain='ipv4-x' priority='-3'><uuid>66666666-2222-3333-4444-555555555555</uuid><!-- words --><rule action='accept' direction='inout' priority='-5' statematch='0'><tcp srcipaddr='10.0.0.0' srcipmask='255.255.255.0' dstportstart='0x50' dstportend='443' comment='a &lt;b&gt;' state='NEW,ESTABLISHED'/></rule><rule action='reject' direction='in'><icmpv6 type='0x80' code='0'/></rule><rule action='return' direction='out'><arp opcode='Request' arpsrcipaddr='10.1.1.1' gratuitous='true'/></rule></filter>",
    ),
    (
        "bind.xml",
        "<filterbinding><owner><name>vm &amp; co</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='port0'/><mac address='52:54:00:7b:35:93'/><filterref filter='one'><parameter name='Z' value='2'/><parameter name='A' value='1'/><parameter name='A' value='3'/></filterref></filterbinding>",
    ),
    (
        "bind-later.xml",
        "<filterbinding><owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='later0'/><linkdev name='eth0'/><mac address='52:54:00:7B:35:94'/><filterref filter='two'/></filterbinding>",
    ),
    (
        "bind-nowhere.xml",
        "<filterbinding><owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='port1'/><mac address='52:54:00:7b:35:95'/><filterref filter='nosuch'/></filterbinding>",
    ),
    (
        "bind-dangling.xml",
        "<filterbinding><owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='port1'/><mac address='52:54:00:7b:35:95'/><filterref filter='dangling'/></filterbinding>",
    ),
    (
        "bind-needy.xml",
        "<filterbinding><owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='port1'/><mac address='52:54:00:7b:35:95'/><filterref filter='needy'/></filterbinding>",
    ),
    (
        "bind-absent.xml",
        "<filterbinding><owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='absent0'/><mac address='52:54:00:7b:35:95'/><filterref filter='nosuch'/></filterbinding>",
    ),
    ("bind-root.xml", "<binding/>"),
    ("bind-empty.xml", "<filterbinding/>"),
    (
        "bind-macless.xml",
        "<filterbinding><owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='port1'/><filterref filter='one'/></filterbinding>",
    ),
    (
        "bind-mac.xml",
        "<filterbinding><owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='port1'/><mac address='52:54:00'/><filterref filter='one'/></filterbinding>",
    ),
    (
        "bind-uuid.xml",
        "<filterbinding><owner><name>vm</name><uuid>x</uuid></owner><portdev name='port1'/><mac address='52:54:00:7b:35:95'/><filterref filter='one'/></filterbinding>",
    ),
    (
        "bind-ownerless.xml",
        "<filterbinding><portdev name='port1'/><mac address='52:54:00:7b:35:95'/><filterref filter='one'/></filterbinding>",
    ),
    (
        "bind-filterless.xml",
        "<filterbinding><owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='port1'/><mac address='52:54:00:7b:35:95'/></filterbinding>",
    ),
    (
        "bind-path.xml",
        "<filterbinding><owner><name>vm</name><uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid></owner><portdev name='../x'/><mac address='52:54:00:7b:35:95'/><filterref filter='one'/></filterbinding>",
    ),
];

/// What is typed after `virsh -c URI`. An environment variable in front is the editor.
const SCRIPT: &str = "
uri
nwfilter-list
nwfilter-define one.xml
nwfilter-define one.xml
nwfilter-define --validate one.xml
nwfilter-list
nwfilter-dumpxml one
nwfilter-dumpxml 11111111-2222-3333-4444-555555555555
nwfilter-dumpxml nosuch
nwfilter-dumpxml 77777777-2222-3333-4444-555555555555
nwfilter-define one-again.xml
nwfilter-dumpxml one
nwfilter-define one-no-uuid.xml
nwfilter-define one-other-uuid.xml
nwfilter-define thief.xml
nwfilter-define two.xml
nwfilter-define loop.xml
nwfilter-define self.xml
nwfilter-define dangling.xml
nwfilter-define needy.xml
nwfilter-define action.xml
nwfilter-define --validate action.xml
nwfilter-define direction.xml
nwfilter-define nameless.xml
nwfilter-define chain.xml
nwfilter-define priority.xml
nwfilter-define uuid.xml
nwfilter-define root.xml
nwfilter-define broken.xml
nwfilter-define text.xml
nwfilter-define absent.xml
nwfilter-define long.xml
nwfilter-define --validate long.xml
nwfilter-dumpxml everything
nwfilter-list
EDITOR=true nwfilter-edit one
EDITOR=./edit nwfilter-edit one
nwfilter-dumpxml one
EDITOR=./spoil nwfilter-edit one
EDITOR=true nwfilter-edit nosuch
nwfilter-binding-list
nwfilter-binding-create bind.xml
nwfilter-binding-create bind.xml
nwfilter-binding-create --validate bind-later.xml
nwfilter-binding-list
nwfilter-binding-dumpxml port0
nwfilter-binding-dumpxml later0
nwfilter-binding-dumpxml nosuch
nwfilter-binding-create bind-nowhere.xml
nwfilter-binding-create bind-dangling.xml
nwfilter-binding-create bind-needy.xml
nwfilter-binding-create bind-root.xml
nwfilter-binding-create bind-empty.xml
nwfilter-binding-create --validate bind-empty.xml
nwfilter-binding-create bind-macless.xml
nwfilter-binding-create bind-mac.xml
nwfilter-binding-create bind-uuid.xml
nwfilter-binding-create bind-ownerless.xml
nwfilter-binding-create bind-filterless.xml
nwfilter-binding-create text.xml
nwfilter-undefine one
nwfilter-define one.xml
nwfilter-define needy.xml
-r nwfilter-list
-r nwfilter-dumpxml everything
-r nwfilter-binding-list
-r nwfilter-binding-dumpxml port0
-r nwfilter-define one.xml
-r nwfilter-undefine everything
-r nwfilter-binding-create bind.xml
-r nwfilter-binding-delete port0
EDITOR=true -r nwfilter-edit one
nwfilter-binding-delete port0
nwfilter-binding-delete port0
nwfilter-binding-delete later0
nwfilter-binding-list
nwfilter-undefine one
nwfilter-undefine two
nwfilter-undefine everything
nwfilter-undefine everything
nwfilter-undefine 44444444-2222-3333-4444-555555555555
nwfilter-list
hostname
capabilities
list --all
net-list
nodeinfo
nwfilter-define one.xml
nwfilter-define two.xml
nwfilter-binding-create bind-later.xml
nwfilter-undefine 22222222-2222-3333-4444-555555555555
nwfilter-binding-delete later0
nwfilter-define slash.xml
nwfilter-undefine ../bad
nwfilter-binding-create bind-absent.xml
nwfilter-binding-delete absent0
nwfilter-binding-create bind-path.xml
nwfilter-binding-delete ../x
";

/// Where the two say different things on purpose: the command, libvirt's words, ours, and why.
struct Departure {
    command: &'static str,
    /// In the order of libvirt's versions.
    theirs: &'static [Since],
    ours: &'static str,
    #[allow(dead_code, reason = "it is for the reader")]
    why: &'static str,
}

/// What libvirt says, with the first of its major versions that was seen to say it.
struct Since(u32, Says);

enum Says {
    This(&'static str),
    WhatWeSay,
}

impl Departure {
    fn theirs(&self, version: u32) -> &'static str {
        let said = self.theirs.iter().rfind(|Since(first, _)| *first <= version);
        match said.unwrap_or_else(|| panic!("libvirt {version} was never compared with")) {
            Since(_, Says::This(words)) => words,
            Since(_, Says::WhatWeSay) => self.ours,
        }
    }
}

const PARSER: &str = "the parser says what is wrong with a document that is no XML, and ours is another; \
                      libvirt 9 also names the kind of document in front of the line";
const NEWER: &str = "libvirt changed its words after 9.0, and ours are the later ones";
const SCHEMA: &str = "our schema names the place and the value, libxml2 names elements";
const NAMES: &str = "a name that leads out of its directory is refused";
const ABSENT: &str = "a binding whose filter is missing is refused, even before its interface is there";

const DEPARTURES: &[Departure] = &[
    Departure {
        command: "nwfilter-define action.xml",
        theirs: &[
            Since(
                9,
                This(
                    "error: Failed to define network filter from action.xml\n\
                 error: unsupported configuration: unknown rule action attribute value\nexit 1",
                ),
            ),
            Since(11, WhatWeSay),
        ],
        ours: "error: Failed to define network filter from action.xml\n\
               error: XML error: Invalid value for attribute 'action' in element 'rule': 'explode'.\nexit 1",
        why: NEWER,
    },
    Departure {
        command: "nwfilter-define --validate action.xml",
        theirs: &[Since(
            9,
            This(
                "error: Failed to define network filter from action.xml\n\
                 error: XML document failed to validate against schema: Unable to validate doc against \
                 /usr/share/libvirt/schemas/nwfilter.rng\nElement rule failed to validate attributes\n\
                 Extra element rule in interleave\nElement filter failed to validate content\nexit 1",
            ),
        )],
        ours: "error: Failed to define network filter from action.xml\n\
               error: XML document failed to validate against schema: filter:1:34: 'action' cannot be 'explode'\n\
               exit 1",
        why: SCHEMA,
    },
    Departure {
        command: "nwfilter-define direction.xml",
        theirs: &[
            Since(
                9,
                This(
                    "error: Failed to define network filter from direction.xml\n\
                 error: internal error: rule node requires direction attribute\nexit 1",
                ),
            ),
            Since(11, WhatWeSay),
        ],
        ours: "error: Failed to define network filter from direction.xml\n\
               error: XML error: Missing required attribute 'direction' in element 'rule'\nexit 1",
        why: NEWER,
    },
    Departure {
        command: "nwfilter-define broken.xml",
        theirs: &[
            Since(
                9,
                This(
                    "error: Failed to define network filter from broken.xml\n\
                 error: (nwfilter_definition):1: Premature end of data in tag filter line 1\n\
                 <filter name='bad'>\n-------------------^\nexit 1",
                ),
            ),
            Since(
                11,
                This(
                    "error: Failed to define network filter from broken.xml\n\
                 error: at line 1: Premature end of data in tag filter line 1\n\
                 <filter name='bad'>\n-------------------^\nexit 1",
                ),
            ),
        ],
        ours: "error: Failed to define network filter from broken.xml\n\
               error: at line 1: the root node was opened but never closed\nexit 1",
        why: PARSER,
    },
    Departure {
        command: "nwfilter-define text.xml",
        theirs: &[
            Since(
                9,
                This(
                    "error: Failed to define network filter from text.xml\n\
                 error: (nwfilter_definition):1: Start tag expected, '<' not found\nnot xml\n^\nexit 1",
                ),
            ),
            Since(
                11,
                This(
                    "error: Failed to define network filter from text.xml\n\
                 error: at line 1: Start tag expected, '<' not found\nnot xml\n^\nexit 1",
                ),
            ),
        ],
        ours: "error: Failed to define network filter from text.xml\n\
               error: at line 1: unknown token at 1:1\nexit 1",
        why: PARSER,
    },
    Departure {
        command: "nwfilter-binding-create text.xml",
        theirs: &[
            Since(
                9,
                This(
                    "error: Failed to create network filter from text.xml\n\
                 error: (nwfilterbinding_definition):1: Start tag expected, '<' not found\nnot xml\n^\nexit 1",
                ),
            ),
            Since(
                11,
                This(
                    "error: Failed to create network filter from text.xml\n\
                 error: at line 1: Start tag expected, '<' not found\nnot xml\n^\nexit 1",
                ),
            ),
        ],
        ours: "error: Failed to create network filter from text.xml\n\
               error: at line 1: unknown token at 1:1\nexit 1",
        why: PARSER,
    },
    Departure {
        command: "nwfilter-binding-create --validate bind-empty.xml",
        theirs: &[Since(
            9,
            This(
                "error: Failed to create network filter from bind-empty.xml\n\
                 error: XML document failed to validate against schema: Unable to validate doc against \
                 /usr/share/libvirt/schemas/nwfilterbinding.rng\nExpecting an element owner, got nothing\n\
                 Invalid sequence in interleave\nElement filterbinding failed to validate content\nexit 1",
            ),
        )],
        ours: "error: Failed to create network filter from bind-empty.xml\n\
               error: XML document failed to validate against schema: binding:1:2: <filterbinding> has no <owner>\n\
               binding:1:2: <filterbinding> has no <portdev>\nbinding:1:2: <filterbinding> has no <mac>\n\
               binding:1:2: <filterbinding> has no <filterref>\nexit 1",
        why: SCHEMA,
    },
    Departure {
        command: "nwfilter-binding-dumpxml later0",
        theirs: &[Since(
            9,
            This(
                "<filterbinding>\n  <owner>\n    <name>vm</name>\n    \
                 <uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid>\n  </owner>\n  <portdev name='later0'/>\n  \
                 <linkdev name='eth0'/>\n  <mac address='52:54:00:7b:35:94'/>\n  <filterref filter='two'/>\n\
                 </filterbinding>\nexit 0",
            ),
        )],
        ours: "<filterbinding>\n  <owner>\n    <name>vm</name>\n    \
               <uuid>d54df46f-1ab5-4a22-8618-4560ef5fac2c</uuid>\n  </owner>\n  <portdev name='later0'/>\n  \
               <linkdev name='eth0'/>\n  <mac address='52:54:00:7b:35:94'/>\n  <filterref filter='two'>\n    \
               <parameter name='MAC' value='52:54:00:7b:35:94'/>\n  </filterref>\n</filterbinding>\nexit 0",
        why: "a binding that waits for its interface has its address already, since it will be enforced",
    },
    Departure {
        command: "nwfilter-undefine 22222222-2222-3333-4444-555555555555",
        theirs: &[Since(9, This("Network filter 22222222-2222-3333-4444-555555555555 undefined\nexit 0"))],
        ours: "error: Failed to undefine network filter 22222222-2222-3333-4444-555555555555\n\
               error: Requested operation is not valid: nwfilter is in use\nexit 1",
        why: "a binding that waits for its interface uses its filter",
    },
    Departure {
        command: "nwfilter-define slash.xml",
        theirs: &[Since(9, This("Network filter ../bad defined from slash.xml\nexit 0"))],
        ours: "error: Failed to define network filter from slash.xml\n\
               error: invalid argument: filter name '../bad' begins with a dot\nexit 1",
        why: NAMES,
    },
    Departure {
        command: "nwfilter-undefine ../bad",
        theirs: &[Since(9, This("Network filter ../bad undefined\nexit 0"))],
        ours: "error: failed to get nwfilter '../bad'\n\
               error: Network filter not found: no nwfilter with matching name '../bad'\nexit 1",
        why: NAMES,
    },
    Departure {
        command: "nwfilter-binding-create bind-absent.xml",
        theirs: &[Since(9, This("Network filter binding on absent0 created from bind-absent.xml\nexit 0"))],
        ours: "error: Failed to create network filter from bind-absent.xml\n\
               error: internal error: referenced filter 'nosuch' is missing\nexit 1",
        why: ABSENT,
    },
    Departure {
        command: "nwfilter-binding-delete absent0",
        theirs: &[Since(9, This("Network filter binding on absent0 deleted\nexit 0"))],
        ours: "error: failed to get nwfilter binding 'absent0'\n\
               error: Network filter binding not found: no nwfilter binding for port dev 'absent0'\nexit 1",
        why: ABSENT,
    },
    Departure {
        command: "nwfilter-binding-create bind-path.xml",
        theirs: &[Since(9, This("Network filter binding on ../x created from bind-path.xml\nexit 0"))],
        ours: "error: Failed to create network filter from bind-path.xml\n\
               error: invalid argument: interface name '../x' has a slash, a colon, white space or a control \
               character in it\nexit 1",
        why: NAMES,
    },
    Departure {
        command: "nwfilter-binding-delete ../x",
        theirs: &[Since(9, This("Network filter binding on ../x deleted\nexit 0"))],
        ours: "error: failed to get nwfilter binding '../x'\n\
               error: Network filter binding not found: no nwfilter binding for port dev '../x'\nexit 1",
        why: NAMES,
    },
];

/// A place for the script to run in, with its documents, and how virsh gets to the server.
struct Place {
    directory: tempfile::TempDir,
    uri: String,
    read_only: String,
}

impl Place {
    fn new(socket: &Path, read_only: &Path) -> Place {
        let directory = tempfile::tempdir().unwrap();
        FILES.iter().for_each(|(name, text)| fs::write(directory.path().join(name), text).unwrap());
        let script = |name: &str, sed: &str| {
            let path = directory.path().join(name);
            fs::write(&path, format!("#!/bin/sh\nsed -i \"{sed}\" \"$1\"\n")).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        };
        script("edit", "s/priority='500'/priority='77'/");
        script("spoil", "s/action='drop'/action='explode'/");
        let uri = |socket: &Path| format!("nwfilter+unix:///system?socket={}", socket.display());
        Place { uri: uri(socket), read_only: uri(read_only), directory }
    }

    /// What virsh prints for a line of the script, and how it ends.
    fn virsh(&self, line: &str) -> String {
        let mut words: Vec<&str> = line.split(' ').collect();
        let editor = words[0].strip_prefix("EDITOR=");
        words.drain(..usize::from(editor.is_some()));
        let uri = if words[0] == "-r" { &self.read_only } else { &self.uri };
        let mut command = Command::new("virsh");
        command.args(["-c", uri]).args(&words).env("LC_ALL", "C").current_dir(self.directory.path());
        command.env("EDITOR", editor.unwrap_or("false")).stdin(Stdio::null());
        let output = command.output_in_time().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        let text = text.replace(uri.split('?').nth(1).unwrap(), "socket=S");
        let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
        lines
            .chain([format!("exit {}", output.status.code().unwrap()).as_str()])
            .collect::<Vec<_>>()
            .join("\n")
    }

    fn play(&self) -> Vec<(&'static str, String)> {
        SCRIPT.lines().filter(|line| !line.is_empty()).map(|line| (line, self.virsh(line))).collect()
    }
}

fn ours() -> Vec<(&'static str, String)> {
    in_fresh_netns(|| {
        let (_port0, _port1) = (veth("port0", "port0p"), veth("port1", "port1p"));
        let host = Host::new();
        let daemon = host.start();
        let played = Place::new(&daemon.socket(), &host.runtime().join("virtnwfilterd-sock-ro")).play();
        assert!(daemon.stop().success());
        played
    })
}

fn theirs() -> Vec<(&'static str, String)> {
    in_fresh_netns(|| {
        let (_port0, _port1) = (veth("port0", "port0p"), veth("port1", "port1p"));
        let directory = tempfile::tempdir().unwrap();
        enclose();
        let mut libvirtd = Libvirtd::start(directory.path());
        let played = Place::new(Path::new(SOCKET), Path::new(SOCKET_READ_ONLY)).play();
        libvirtd.lives();
        played
    })
}

/// The major version of the libvirtd that is compared with.
fn libvirt_version() -> u32 {
    let output = Command::new("libvirtd").arg("--version").output_in_time().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let version = text.split_whitespace().last().and_then(|version| version.split('.').next()?.parse().ok());
    version.unwrap_or_else(|| panic!("libvirtd --version: {text}"))
}

#[test]
fn virsh_hears_the_same_from_this_daemon_and_from_libvirtd() {
    if !available("virsh", "--tests") || !available("libvirtd", "--tests") {
        return;
    }
    let (ours, theirs, version) = (ours(), theirs(), libvirt_version());
    let mut faults = String::new();
    for ((command, ours), (_, theirs)) in ours.iter().zip(&theirs) {
        let departure = DEPARTURES.iter().find(|departure| departure.command == *command);
        let expected =
            departure.map_or((theirs.as_str(), theirs.as_str()), |it| (it.theirs(version), it.ours));
        if expected != (theirs.as_str(), ours.as_str()) {
            faults += &format!("virsh {command}\n--- libvirtd:\n{theirs}\n--- this daemon:\n{ours}\n\n");
        }
    }
    assert!(faults.is_empty(), "libvirt {version}:\n{faults}");
    println!("{} commands, {} departures from libvirt {version}", ours.len(), DEPARTURES.len());
}
