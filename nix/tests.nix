# Machines of NixOS that have no ebtables: what virsh says, what a guest's frames meet, what nftables' restart leaves.
{ pkgs, module }:

let
  # A guest is a namespace behind a veth pair on the bridge; its MAC and IP address are what clean-traffic lets it have.
  guest = ''
    def guest(name, number):
        host.succeed(
            f"ip netns add {name}",
            f"ip link add v{name} type veth peer name eth0 netns {name} address 52:54:00:00:00:0{number}",
            f"ip link set v{name} master br0 up",
            f"ip -n {name} addr add 10.9.0.{number}/24 dev eth0",
            f"ip -n {name} link set eth0 up",
        )

    def binding(name, number, filter="clean-traffic"):
        host.succeed(f"""cat > /tmp/{name}.xml <<'END'
    <filterbinding>
      <owner><name>{name}</name><uuid>5c6d49af-b071-6127-b4ec-6f8ed4b5533{number}</uuid></owner>
      <portdev name='v{name}'/><mac address='52:54:00:00:00:0{number}'/>
      <filterref filter='{filter}'><parameter name='IP' value='10.9.0.{number}'/></filterref>
    </filterbinding>
    END""")
        host.succeed(f"virsh -c {uri} nwfilter-binding-create /tmp/{name}.xml")

    def passes():
        host.succeed("ip netns exec one ping -c 1 -W 2 10.9.0.2")

    def spoofed():
        # Another address on the same interface is somebody else's.
        host.succeed("ip -n one addr replace 10.9.0.7/24 dev eth0")
        host.fail("ip netns exec one ping -c 1 -W 2 -I 10.9.0.7 10.9.0.2")
        host.succeed("ip -n one addr del 10.9.0.7/24 dev eth0")

    uri = "'nwfilter+unix:///system?socket=/run/libvirt/virtnwfilterd-sock'"
    host.start()
    host.wait_for_unit("nwfilterd.socket")
    host.succeed("ip link add br0 type bridge", "ip link set br0 up")
    guest("one", 1)
    guest("two", 2)
  '';

  test = name: settings: script: pkgs.testers.runNixOSTest {
    inherit name;
    nodes.host = { pkgs, ... }: {
      imports = [ module settings ];
      services.nwfilter.enable = true;
      environment.systemPackages = [ pkgs.libvirt pkgs.iproute2 pkgs.nftables ];
    };
    testScript = guest + script;
  };
in
{
  virsh = test "nwfilter-virsh" { } ''
    with subtest("there is no ebtables"):
        host.fail("command -v ebtables")
    with subtest("virsh defines, lists and binds"):
        host.succeed(f"virsh -c {uri} nwfilter-list | grep clean-traffic")
        host.succeed("""echo "<filter name='mine' chain='root'><rule action='drop' direction='inout'><vlan/></rule></filter>" > /tmp/mine.xml""")
        host.succeed(f"virsh -c {uri} nwfilter-define /tmp/mine.xml")
        passes()
        binding("one", 1)
        host.succeed(f"virsh -c {uri} nwfilter-binding-list | grep vone")
    with subtest("a spoofed address is dropped"):
        passes()
        spoofed()
    with subtest("the daemon's restart lets nothing by"):
        host.succeed("systemctl restart nwfilterd.service")
        passes()
        spoofed()
    with subtest("an unbound guest is free"):
        host.succeed(f"virsh -c {uri} nwfilter-binding-delete vone")
        host.wait_until_succeeds("ip -n one addr replace 10.9.0.7/24 dev eth0 && ip netns exec one ping -c 1 -W 2 -I 10.9.0.7 10.9.0.2")
  '';

  nftables = test "nwfilter-nftables" { networking.nftables.enable = true; } ''
    binding("one", 1)
    passes()
    spoofed()
    with subtest("nftables starts anew and flushes what it knows"):
        host.succeed("systemctl restart nftables.service")
        passes()
        spoofed()
    with subtest("somebody flushes everything"):
        host.succeed("nft flush ruleset")
        host.wait_until_succeeds("nft list table bridge nwfilter")
        spoofed()
  '';

  stateful = test "nwfilter-stateful" { } ''
    host.succeed("""cat > /tmp/pings.xml <<'END'
    <filter name='pings' chain='root'>
      <rule action='accept' direction='out'><icmp/></rule>
      <rule action='drop' direction='inout' priority='900'><all/></rule>
    </filter>
    END""")
    host.succeed(f"virsh -c {uri} nwfilter-define /tmp/pings.xml")
    binding("one", 1, filter="pings")
    passes()
    host.fail("ip netns exec two ping -c 1 -W 2 10.9.0.1")
  '';
}
