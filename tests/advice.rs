//! What `nwfilter check` says of filters as people write them: what matters, once, and nothing of building blocks.

mod tool;

use expect_test::{Expect, expect};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use tempfile::TempDir;
use tool::InTime;

/// The outcome of a check of these documents, each diagnostic as a line with its place and help.
fn check(options: &[&str], documents: &[&str], expected: Expect) {
    let directory = TempDir::new().unwrap();
    let files: Vec<String> = documents
        .iter()
        .enumerate()
        .map(|(number, text)| {
            let path = directory.path().join(format!("{number}.xml"));
            fs::write(&path, text).unwrap();
            path.display().to_string()
        })
        .collect();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
    let output =
        command.arg("check").args(options).args(["--dir", "/nowhere"]).args(&files).output_in_time().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let said = said.replace(&format!("{}/", directory.path().display()), "");
    let kept = |line: &&str| {
        let line = line.trim_start();
        line.starts_with("error")
            || line.starts_with("warning")
            || line.starts_with("-->")
            || line.contains("^ ")
            || line.contains("= help:")
    };
    let lines: Vec<&str> = said.lines().filter(kept).map(str::trim).collect();
    expected.assert_eq(&format!("exit {}\n{}\n", output.status.code().unwrap(), lines.join("\n")));
}

fn filter(rules: &str) -> String {
    format!("<filter name='mine' chain='root'>\n{rules}\n</filter>\n")
}

/// What is asked, of a filter of its own.
fn rules(rules: &str, expected: Expect) {
    check(&[], &[&filter(rules)], expected);
}

fn audited(rules: &str, expected: Expect) {
    check(&["--audit"], &[&filter(rules)], expected);
}

#[test]
fn a_filter_that_is_right_has_nothing_said_of_it() {
    rules(
        "<filterref filter='clean-traffic'/>\n<rule action='accept' direction='in' priority='300'><tcp dstportstart='22'/></rule>\n\
         <rule action='accept' direction='out' priority='300'><all/></rule>",
        expect![[r#"
            exit 0

        "#]],
    );
}

#[test]
fn building_blocks_get_no_advice_on_what_others_decide() {
    check(
        &["--audit"],
        &[
            "<filter name='no-smtp' chain='ipv4-smtp' priority='-690'>\n<rule action='drop' direction='out'><ip protocol='tcp' dstportstart='25'/></rule>\n</filter>",
            "<filter name='top'>\n<filterref filter='no-smtp'/>\n<filterref filter='clean-traffic'/>\n</filter>",
        ],
        expect![[r#"
            exit 0
            warning: chain 'ipv4-smtp' of filter 'top' has an open end
            = help: what none of its rules takes goes on in the root chain; libvirt's ebtables driver accepts it there (PROMISES.md, departure 1)
        "#]],
    );
}

#[test]
fn a_list_of_networks_in_one_rule() {
    rules(
        "<rule action='drop' direction='out'>\n<ip dstipaddr='10.0.0.0' dstipmask='8'/>\n<ip dstipaddr='192.168.0.0' dstipmask='16'/>\n</rule>",
        expect![[r#"
            exit 1
            warning: filter 'mine' lets all tagged frames by
            --> 0.xml:2:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ such a rule looks at untagged frames only
            = help: a guest gets by with a tag, VLAN 0 included; drop protocol vlan, or what no other rule accepts
            error: dstipaddr='10.0.0.0' is ignored, another <ip> of the rule says '192.168.0.0'
            --> 0.xml:3:16
            |                ^^^^^^^^ is not enforced
            = help: all elements of a rule together are one condition; write a rule for each
            error: dstipmask='8' is ignored, another <ip> of the rule says '16'
            --> 0.xml:3:37
            |                                     ^ is not enforced
            = help: all elements of a rule together are one condition; write a rule for each
        "#]],
    );
    check(
        &["--lenient"],
        &[&filter("<rule action='drop' direction='out'>\n<arp opcode='1'/>\n<arp opcode='2'/>\n</rule>")],
        expect![[r#"
            exit 0
            warning: filter 'mine' lets all tagged frames by
            --> 0.xml:2:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ such a rule looks at untagged frames only
            = help: a guest gets by with a tag, VLAN 0 included; drop protocol vlan, or what no other rule accepts
            warning: opcode='Request' is ignored, another <arp> of the rule says 'Reply'
            --> 0.xml:3:14
            |              ^ is not enforced
            = help: all elements of a rule together are one condition; write a rule for each
        "#]],
    );
}

#[test]
fn names_of_other_tools() {
    rules(
        "<rule action='accept' direction='in'><tcp dport='80'/></rule>\n\
         <rule action='accept' direction='out'><tcp6 dstportstart='80'/></rule>\n\
         <rule action='accept' direction='out'><gre/></rule>\n\
         <rule action='drop' direction='out'><ip6/></rule>",
        expect![[r#"
            exit 1
            error: attribute 'dport' of <tcp> is unknown and ignored
            --> 0.xml:2:43
            |                                           ^^^^^ is not enforced
            = help: did you mean 'dstportstart'?
            error: element <tcp6> is unknown here and ignored
            --> 0.xml:3:40
            |                                        ^^^^ a rule without a protocol matches every frame
            = help: did you mean 'tcp-ipv6'?
            error: element <gre> is unknown here and ignored
            --> 0.xml:4:40
            |                                        ^^^ a rule without a protocol matches every frame
            = help: no element is about that protocol alone; <ip protocol='47'/> is
            error: element <ip6> is unknown here and ignored
            --> 0.xml:5:38
            |                                      ^^^ a rule without a protocol matches every frame
            = help: did you mean 'ipv6'?
        "#]],
    );
}

#[test]
fn a_deny_list_that_a_tag_walks_around() {
    rules(
        "<rule action='drop' direction='out'><ip dstipaddr='10.0.0.0' dstipmask='8'/></rule>",
        expect![[r#"
        exit 0
        warning: filter 'mine' lets all tagged frames by
        --> 0.xml:2:1
        | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ such a rule looks at untagged frames only
        = help: a guest gets by with a tag, VLAN 0 included; drop protocol vlan, or what no other rule accepts
    "#]],
    );
    rules(
        "<rule action='drop' direction='out'><ip dstipaddr='10.0.0.0' dstipmask='8'/></rule>\n<rule action='drop' direction='inout' priority='0'><vlan/></rule>",
        expect![[r#"
            exit 0

        "#]],
    );
}

#[test]
fn a_catch_all_of_the_ip_layer() {
    rules(
        "<rule action='accept' direction='out' priority='100'><all state='NEW,ESTABLISHED'/></rule>\n\
         <rule action='accept' direction='in' priority='200'><tcp dstportstart='22'/></rule>\n\
         <rule action='drop' direction='inout' priority='900'><all/></rule>",
        expect![[r#"
            exit 0
            warning: <all> leaves what is no packet of its family: IPv6, ARP, tagged frames pass
            --> 0.xml:4:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ in this rule of filter 'mine'
            = help: what no rule decides is accepted; accept the Ethernet types that the guest needs, and refer to no-other-l2-traffic (by a tag, VLAN 0 included, a guest gets by all rules but mac and vlan)
        "#]],
    );
}

#[test]
fn advice_for_kernels_without_conntrack_taken() {
    rules(
        "<rule action='accept' direction='in' priority='100' statematch='false'><all state='ESTABLISHED,RELATED'/></rule>\n\
         <rule action='accept' direction='out' priority='200' statematch='false'><all/></rule>\n\
         <rule action='drop' direction='in' priority='900'><all/></rule>",
        expect![[r#"
            exit 0
            warning: state has no effect with statematch='false'
            --> 0.xml:2:84
            |                                                                                    ^^^^^^^^^^^^^^^^^^^ the rule takes frames of connections in any state
            = help: leave statematch out, or the state
            warning: with statematch='false' this rule also accepts what comes to the guest, as if in answer
            --> 0.xml:3:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ in this rule of filter 'mine'
            = help: state='NONE' makes it count one way and needs no connections either; answers then need a rule of their own
            warning: <all> leaves what is no packet of its family: IPv6, ARP, tagged frames pass
            --> 0.xml:4:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ in this rule of filter 'mine'
            = help: what no rule decides is accepted; accept the Ethernet types that the guest needs, and refer to no-other-l2-traffic (by a tag, VLAN 0 included, a guest gets by all rules but mac and vlan)
        "#]],
    );
}

#[test]
fn layers_against_priorities() {
    audited(
        "<rule action='accept' direction='in' priority='300'><tcp dstportstart='22' state='NONE'/></rule>\n\
         <rule action='drop' direction='inout' priority='1000'/>",
        expect![[r#"
            exit 0
            warning: no frame reaches this rule of filter 'mine'
            --> 0.xml:2:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ rule 2 of filter 'mine' (line 3) takes all that it asks for
            = help: Ethernet rules are judged before IP rules, whatever their priority
        "#]],
    );
}

#[test]
fn layers_against_priorities_are_reported_without_an_audit() {
    rules(
        "<rule action='accept' direction='in' priority='300'><tcp dstportstart='22' state='NONE'/></rule>\n\
         <rule action='accept' direction='in' priority='300'><tcp dstportstart='80' state='NONE'/></rule>\n\
         <rule action='drop' direction='inout' priority='1000'/>",
        expect![[r#"
            exit 0
            warning: no frame reaches 2 rules of the IP layer, this one of filter 'mine' first
            --> 0.xml:2:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ rule 3 of filter 'mine' (line 4) takes all that it asks for
            = help: Ethernet rules are judged before IP rules, whatever their priority
        "#]],
    );
    rules(
        "<rule action='accept' direction='inout' priority='100'><mac protocolid='ipv4'/></rule>\n\
         <rule action='accept' direction='inout' priority='100'><mac protocolid='arp'/></rule>\n\
         <rule action='accept' direction='in' priority='300'><tcp dstportstart='22'/></rule>\n\
         <rule action='drop' direction='inout' priority='1000'/>",
        expect![[r#"
            exit 0

        "#]],
    );
}

#[test]
fn a_rule_that_is_written_twice_is_not_taken_by_another_layer() {
    audited(
        "<filterref filter='clean-traffic'/>\n\
         <rule action='accept' direction='out' priority='100'><udp dstportstart='53' dstportend='53'/></rule>\n\
         <rule action='accept' direction='out' priority='100'><udp dstportstart='53'/></rule>\n\
         <rule action='drop' direction='out' priority='200'><udp state='NEW'/></rule>",
        expect![[r#"
            exit 0
            warning: no frame reaches this rule of filter 'mine'
            --> 0.xml:4:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ rule 1 of filter 'mine' (line 3) takes all that it asks for
        "#]],
    );
}

#[test]
fn what_the_ethernet_layer_accepts_meets_the_ip_layer() {
    rules(
        "<rule action='accept' direction='inout' priority='100'><ip srcipaddr='10.0.0.0' srcipmask='24'/></rule>\n\
         <rule action='drop' direction='inout' priority='900'><all/></rule>",
        expect![[r#"
            exit 0
            warning: <all> of rule 2 refuses all that this rule accepts
            --> 0.xml:2:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ in this rule of filter 'mine'
            = help: a frame must pass both layers: what an Ethernet rule accepts goes on to the IP layer
            warning: <all> leaves what is no packet of its family: IPv6, ARP, tagged frames pass
            --> 0.xml:3:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ in this rule of filter 'mine'
            = help: what no rule decides is accepted; accept the Ethernet types that the guest needs, and refer to no-other-l2-traffic (by a tag, VLAN 0 included, a guest gets by all rules but mac and vlan)
        "#]],
    );
}

#[test]
fn the_rule_of_the_ip_layer_that_takes_all_is_named() {
    audited(
        "<filterref filter='clean-traffic'/>\n\
         <rule action='accept' direction='in' priority='200' statematch='false'><all/></rule>\n\
         <rule action='drop' direction='out' priority='900'><tcp state='NEW'/></rule>",
        expect![[r#"
            exit 0
            warning: with statematch='false' this rule also accepts what the guest sends, as if in answer
            --> 0.xml:3:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ in this rule of filter 'mine'
            = help: state='NONE' makes it count one way and needs no connections either; answers then need a rule of their own
            warning: no frame reaches this rule of filter 'mine'
            --> 0.xml:4:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ rule 1 of filter 'mine' (line 3) takes all that it asks for
        "#]],
    );
}

#[test]
fn refusals_count_both_ways() {
    audited(
        "<filterref filter='clean-traffic'/>\n\
         <rule action='drop' direction='out'><tcp dstipaddr='10.150.0.0' dstipmask='24' flags='SYN,ACK/SYN'/></rule>\n\
         <rule action='drop' direction='out'><tcp dstipaddr='10.151.0.0' dstipmask='24'/></rule>",
        expect![[r#"
            exit 0
            warning: filter 'mine' refuses packets to the guest at the IP layer, those that the host routes to it too
            = help: libvirt lets pass there what the host routes; what the host itself sends passes in both, unless nwfilterd's host_to_guest is "filter" (PROMISES.md, departure 2)
            warning: direction='out' of this rule of filter 'mine' also refuses what comes to the guest from there
            --> 0.xml:3:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ counts both ways
            = help: what the IP layer refuses counts both ways (another rule of this filter does as well); state='NEW' has it count for what is begun in its direction alone
        "#]],
    );
}

#[test]
fn rules_in_a_chain_that_is_not_theirs() {
    check(
        &[],
        &[
            "<filter name='six' chain='ipv6'>\n<rule action='accept' direction='in'><icmp/></rule>\n<rule action='accept' direction='in'><tcp/></rule>\n</filter>",
        ],
        expect![[r#"
            exit 0
            warning: <icmp> is about IPv4, whatever the chain: rules of the IP layer are in no chain
            --> 0.xml:2:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ in chain 'ipv6'
            = help: rules about IPv6 have elements of their own, tcp-ipv6, icmpv6, all-ipv6 and so on
        "#]],
    );
    rules(
        "<rule action='accept' direction='in'/>\n<rule action='drop' direction='in'><tcp dstportstart='22'/></rule>",
        expect![[r#"
            exit 0
            warning: a rule without a protocol takes every frame of its chain, before any rule of the IP layer
            --> 0.xml:2:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ accepts every frame at the Ethernet layer
            warning: filter 'mine' lets all tagged frames by
            --> 0.xml:3:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ such a rule looks at untagged frames only
            = help: a guest gets by with a tag, VLAN 0 included; drop protocol vlan, or what no other rule accepts
        "#]],
    );
}

#[test]
fn parameters_that_come_to_nothing() {
    rules(
        "<filterref filter='clean-traffic'>\n<parameter name='CTRL_IP_LEARNING' value='none'/>\n<parameter name='ip' value='10.0.0.1'/>\n\
         <parameter name='IP' value='10.0.0.1/24'/>\n</filterref>",
        expect![[r#"
            exit 1
            error: 'CTRL_IP_LEARNING' has no effect in a filter
            --> 0.xml:3:43
            |                                           ^^^^ is read by no rule
            = help: give it with the binding, as a parameter of the interface's own filterref
            error: no rule of filter 'clean-traffic' reads the variable 'ip'
            --> 0.xml:4:29
            |                             ^^^^^^^^ is read by no rule
            = help: did you mean 'IP'?
            error: the parameter 'IP' is ignored
            --> 0.xml:5:29
            |                             ^^^^^^^^^^^ a value has letters, digits, and _ . : only
            = help: a variable holds single addresses; the mask is an attribute of the rule
        "#]],
    );
    let binding = |params: &str| {
        format!(
            "<filterbinding>\n<owner><name>a</name><uuid>5c6d49afb0716127b4ec6f8ed4b55335</uuid></owner>\n<portdev name='vnet0'/>\n\
             <mac address='52:54:00:00:00:01'/>\n<filterref filter='clean-traffic'>\n{params}\n</filterref>\n</filterbinding>"
        )
    };
    for (params, expected) in [
        (
            "<parameter name='IP' value='10.0.0.1'/>",
            expect![[r#"
            exit 0

        "#]],
        ),
        (
            "<parameter name='IP' value='10.0.0.256'/>",
            expect![[r#"
                exit 1
                error: variable 'IP' has the value '10.0.0.256', which is not an IPv4 address
                --> 0.xml:6:29
                |                             ^^^^^^^^^^ is not what a rule needs
            "#]],
        ),
        (
            "<parameter name='ip' value='10.0.0.1'/>",
            expect![[r#"
            exit 1
            error: no rule of filter 'clean-traffic' reads the variable 'ip'
            --> 0.xml:6:29
            |                             ^^^^^^^^ is read by no rule
            = help: did you mean 'IP'?
        "#]],
        ),
        (
            "<parameter name='CTRL_IP_LEARNING' value='dchp'/>",
            expect![[r#"
            exit 1
            error: filter 'clean-traffic' learning value 'dchp' invalid.
            --> 0.xml:6:43
            |                                           ^^^^ means nothing
            = help: CTRL_IP_LEARNING is any, dhcp or none
        "#]],
        ),
        (
            "<parameter name='IP' value='10.0.0.1'/><parameter name='CTRL_IP_LEARNING' value='none'/>",
            expect![[r#"
            exit 0
            warning: 'CTRL_IP_LEARNING' has no effect: no address is learned for this binding
            --> 0.xml:6:82
            |                                                                                  ^^^^ not needed
        "#]],
        ),
        (
            "<parameter name='IP' value='10.0.0.1'/><parameter name='DHCPSERVER' value='10.0.0.2'/>",
            expect![[r#"
            exit 1
            error: no rule of filter 'clean-traffic' reads the variable 'DHCPSERVER'
            --> 0.xml:6:76
            |                                                                            ^^^^^^^^ is read by no rule
            = help: it counts where an address is learned, and where a rule reads it, as that of allow-dhcp-server does
        "#]],
        ),
        (
            "<parameter name='CTRL_IP_LEARNING' value='dhcp'/><parameter name='DHCPSERVER' value='10.0.0.2'/>",
            expect![[r#"
            exit 0

        "#]],
        ),
    ] {
        check(&[], &[&binding(params)], expected);
    }
    let missing = binding("").replace("'clean-traffic'", "'clean-trafic'");
    check(
        &[],
        &[&missing],
        expect![[r#"
        exit 1
        error: referenced filter 'clean-trafic' is missing
        --> 0.xml:5:20
        |                    ^^^^^^^^^^^^ by this binding
    "#]],
    );
}

#[test]
fn all_foreign_names_of_a_guest_are_one_piece_of_advice() {
    audited(
        "<rule action='accept' direction='inout'><mac/></rule>",
        expect![[r#"
        exit 0
        warning: filter 'mine' lets the guest send with a foreign source MAC address, sender MAC address in ARP, sender IP address in ARP, source address in IPv4, source address in IPv6
        = help: it accepts 52:54:00:00:00:02 > 02:00:00:00:00:01, ARP who-has 192.0.2.9 tell 192.0.2.1, 42 bytes; clean-traffic, or no-mac-spoofing, no-arp-spoofing, no-ip-spoofing and no-ipv6-spoofing, keep a guest from that
    "#]],
    );
}

fn explain(directory: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nwfilter"));
    command
        .args(["explain", "--filter", "clean-traffic", "--dir", directory])
        .args(arguments)
        .output_in_time()
        .unwrap()
}

#[test]
fn an_explanation_asks_for_what_it_lacks_and_needs_no_quotes() {
    let output = explain("/nowhere", &["--icmp", "10.0.0.66,10.0.0.2"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("= help: give --param IP=... --param MAC=...\n"), "{said}");
    let given = ["--param", "IP=10.0.0.1", "--param", "MAC=52:54:00:00:00:01"];
    for frame in [&["--tcp", "10.0.0.66:1", "10.0.0.2:22"][..], &["--tcp", "10.0.0.66:1-10.0.0.2:22"]] {
        let output = explain("/nowhere", &[&given[..], frame].concat());
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(said.contains("wanted 10.0.0.1, seen 10.0.0.66"), "{said}");
        assert!(
            said.contains("    filter 'no-ip-spoofing' rule 3 drop: matches (<standard>/no-ip-spoofing.xml:"),
            "{said}"
        );
    }
}

/// The standard filters are inside of the program: who may not read the host's own can ask about them.
#[test]
fn an_ordinary_user_can_ask_about_the_standard_filters() {
    let directory = TempDir::new().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let (program, filters) = (directory.path().join("nwfilter"), directory.path().join("filters"));
    fs::copy(env!("CARGO_BIN_EXE_nwfilter"), &program).unwrap();
    fs::create_dir(&filters).unwrap();
    fs::set_permissions(&filters, Permissions::from_mode(0o700)).unwrap();
    let mut command = Command::new(&program);
    command.args([
        "explain",
        "--filter",
        "clean-traffic",
        "--param",
        "IP=10.0.0.1",
        "--param",
        "MAC=52:54:00:00:00:01",
    ]);
    command.args(["--icmp", "10.0.0.1,10.0.0.2", "--dir"]).arg(&filters);
    let output = command.uid(65534).gid(65534).output_in_time().expect("this test needs root");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("accepted by rule "));
}

#[test]
fn a_filter_that_lets_nothing_pass() {
    rules(
        "<rule action='drop' direction='inout'/>",
        expect![[r#"
        exit 0
        warning: filter 'mine' refuses every frame to and from the guest, ARP and DHCP included
        --> 0.xml:2:1
        | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ nothing is accepted before
        = help: accept what the guest needs by rules of a lower priority, or refer to a filter that does
    "#]],
    );
    rules(
        "<rule action='drop' direction='in'><mac/></rule>\n<rule action='accept' direction='out'><arp/></rule>",
        expect![[r#"
            exit 0
            warning: filter 'mine' refuses every frame to the guest, ARP and DHCP included
            --> 0.xml:2:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ nothing is accepted before
            = help: accept what the guest needs by rules of a lower priority, or refer to a filter that does
        "#]],
    );
    rules(
        "<rule action='accept' direction='inout' priority='100'><arp/></rule>\n<rule action='drop' direction='inout'/>",
        expect![[r#"
            exit 0

        "#]],
    );
    // That is for others to refer to.
    let block =
        "<filter name='no-other-l2-traffic'><rule action='drop' direction='inout' priority='1000'/></filter>";
    check(
        &[],
        &[block],
        expect![[r#"
        exit 0

    "#]],
    );
}

#[test]
fn a_rule_that_gets_no_frame_of_its_chain() {
    check(
        &[],
        &["<filter name='four' chain='ipv4'>\n<rule action='drop' direction='out'><arp/></rule>\n</filter>"],
        expect![[r#"
            exit 0
            warning: this rule matches no frame: chain 'ipv4' gets IPv4 alone
            --> 0.xml:2:1
            | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ <arp> in chain 'ipv4'
            = help: put it into a filter with chain='arp'
        "#]],
    );
}
