mod lab;
#[test]
fn x(){ lab::in_fresh_netns(|| { let n = lab::Network::new(); 
 use lab::frames::*;
 assert!(n.passes(lab::Way::FromGuest, udp(ip(GUEST_IP,PEER_IP),1,2)));
 let v = n.verdict(lab::Way::FromGuest, udp(ip(GUEST_IP,PEER_IP),1,2).length(60000)); println!("{v:?}");
 let m = lab::macvtap("mvt0", lab::veth("va","vb").0, GUEST_MAC); println!("{:?}", m.err());
 let (f, ()) = n.flood(lab::Way::FromGuest, udp(ip(GUEST_IP,PEER_IP),1,2), udp(ip(GUEST_IP,PEER_IP),1,3), || std::thread::sleep(std::time::Duration::from_millis(500)));
 println!("{f:?}");
 }) }
