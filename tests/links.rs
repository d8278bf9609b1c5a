//! What the link monitor reports of real links, each case in a network namespace of its own thread.

use netlink_packet_route::RouteNetlinkMessage as Request;
use netlink_packet_route::link::{LinkMessage, MacVtapMode};
use nwfilter::document::mac::Mac;
use nwfilter::guest::link::{Link, LinkEvent, LinkKind, MacvtapMode};
use nwfilter::kernel::links;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{LinkBridge, LinkMacVtap, LinkUnspec, LinkVeth};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::time::Duration;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_secs(3600);

/// A namespace, a way to change its links, and what the monitor says of them.
struct World {
    socket: Socket,
    batches: mpsc::Receiver<Vec<LinkEvent>>,
    events: VecDeque<LinkEvent>,
}

fn own_namespace() {
    // SAFETY: changes the namespace of this thread and touches no memory.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(done, 0, "the tests need to be root: {}", std::io::Error::last_os_error());
}

fn socket() -> Socket {
    let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.bind_auto().unwrap();
    socket.connect(&SocketAddr::new(0, 0)).unwrap();
    socket
}

/// Asks the kernel for a change and waits until it is done.
fn request(socket: &Socket, request: Request) {
    let create = if matches!(request, Request::NewLink(_)) { NLM_F_CREATE | NLM_F_EXCL } else { 0 };
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | create;
    message.header.sequence_number = 4711;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0).unwrap();
    let (answer, _) = socket.recv_from_full().unwrap();
    let answer = NetlinkMessage::<Request>::deserialize(&answer).unwrap();
    let NetlinkPayload::Error(e) = answer.payload else { panic!("no acknowledgement: {answer:?}") };
    assert_eq!(e.raw_code(), 0, "{e}");
}

/// Runs a case with a monitor in a fresh namespace, after the monitor's first batch.
fn world(resync: Duration, case: impl AsyncFnOnce(World) + Send + 'static) {
    let run = move || {
        own_namespace();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (sender, batches) = mpsc::channel(4);
            let watch = tokio::spawn(links::watch(resync, sender));
            let mut world = World { socket: socket(), batches, events: VecDeque::new() };
            let first = world.batches.recv().await.unwrap();
            assert!(matches!(&first[..], [LinkEvent::Appeared(lo)] if lo.name == "lo"), "{first:?}");
            case(world).await;
            watch.await.unwrap().unwrap();
        });
    };
    std::thread::spawn(run).join().unwrap();
}

impl World {
    async fn event(&mut self) -> LinkEvent {
        while self.events.is_empty() {
            let batch = tokio::time::timeout(PATIENCE, self.batches.recv()).await;
            self.events.extend(batch.expect("an event was to come").expect("the monitor runs"));
        }
        self.events.pop_front().unwrap()
    }

    /// The first event from which this finds what it wants.
    async fn until<T>(&mut self, mut wanted: impl FnMut(&LinkEvent) -> Option<T>) -> T {
        loop {
            let event = self.event().await;
            if let Some(found) = wanted(&event) {
                return found;
            }
        }
    }

    async fn appeared(&mut self, name: &str) -> Link {
        self.until(|event| match event {
            LinkEvent::Appeared(link) if link.name == name => Some(link.clone()),
            LinkEvent::Gone(link) if link.name == name => panic!("{name} is gone"),
            _ => None,
        })
        .await
    }

    async fn gone(&mut self, index: u32) -> Link {
        self.until(|event| match event {
            LinkEvent::Gone(link) if link.index == index => Some(link.clone()),
            _ => None,
        })
        .await
    }

    /// Waits for a change of this link for which the test holds; meanwhile it must not be gone.
    async fn changed(&mut self, index: u32, test: impl Fn(&Link, &Link) -> bool) -> Link {
        self.until(|event| match event {
            LinkEvent::Changed { old, new } if new.index == index && test(old, new) => Some(new.clone()),
            LinkEvent::Gone(link) => panic!("{link:?} is gone"),
            _ => None,
        })
        .await
    }

    fn add(&self, link: LinkMessage) {
        request(&self.socket, Request::NewLink(link));
    }

    fn set(&self, link: LinkMessage) {
        request(&self.socket, Request::SetLink(link));
    }

    fn delete(&self, index: u32) {
        request(&self.socket, Request::DelLink(LinkUnspec::new_with_index(index).build()));
    }

    async fn veth(&mut self, name: &str) -> Link {
        self.add(LinkVeth::new(name, &format!("{name}-peer")).build());
        self.appeared(name).await
    }
}

/// A tap that lives until the file is dropped.
fn tap(name: &str) -> File {
    let file = File::options().read(true).write(true).open("/dev/net/tun").unwrap();
    // SAFETY: an ifreq is plain data, for which zeros are a value.
    let mut wanted: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in wanted.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    wanted.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut wanted) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    file
}

#[test]
fn a_tap_appears_and_goes_with_its_owner() {
    world(NEVER, async |mut world| {
        let owner = tap("vnet0");
        let link = world.appeared("vnet0").await;
        assert_eq!(link.kind, LinkKind::Tap);
        assert!(link.mac.is_some() && link.master.is_none() && !link.up);
        world.set(LinkUnspec::new_with_index(link.index).up().build());
        world.changed(link.index, |old, new| !old.up && new.up).await;
        drop(owner);
        assert_eq!(world.gone(link.index).await.name, "vnet0");
    });
}

#[test]
fn a_rename_keeps_the_index_and_a_reused_name_does_not() {
    world(NEVER, async |mut world| {
        let first = world.veth("a").await;
        assert_eq!(first.kind, LinkKind::Veth);
        world.set(LinkUnspec::new_with_index(first.index).name("b").build());
        world.changed(first.index, |old, new| (&*old.name, &*new.name) == ("a", "b")).await;
        world.set(LinkUnspec::new_with_index(first.index).name("a").build());
        world.delete(first.index);
        world.add(LinkVeth::new("a", "a-peer").build());
        world.gone(first.index).await;
        assert_ne!(world.appeared("a").await.index, first.index);
    });
}

#[test]
fn a_port_that_leaves_its_bridge_is_not_gone() {
    world(NEVER, async |mut world| {
        world.add(LinkBridge::new("br0").build());
        let bridge = world.appeared("br0").await;
        assert_eq!(bridge.kind, LinkKind::Bridge);
        let port = world.veth("port").await;
        world.set(LinkUnspec::new_with_index(port.index).controller(bridge.index).build());
        world.changed(port.index, |_, new| new.master == Some(bridge.index)).await;
        world.set(LinkUnspec::new_with_index(port.index).nocontroller().build());
        world.changed(port.index, |old, new| old.master.is_some() && new.master.is_none()).await;
        world.set(LinkUnspec::new_with_index(port.index).address(vec![2, 0, 0, 0, 0, 9]).build());
        world.changed(port.index, |_, new| new.mac == Some(Mac([2, 0, 0, 0, 0, 9]))).await;
    });
}

#[test]
fn a_macvtap_names_its_mode_and_its_lower_device() {
    world(NEVER, async |mut world| {
        let lower = world.veth("lower").await;
        world.add(LinkMacVtap::new("mv0", lower.index, MacVtapMode::Private).build());
        let kind = world.appeared("mv0").await.kind;
        let wanted =
            LinkKind::Macvtap { mode: MacvtapMode::Private, lower: Some(lower.index), lower_netns: None };
        assert_eq!(kind, wanted);
    });
}

#[test]
fn a_link_moved_to_a_namespace_goes_here_and_appears_there() {
    world(NEVER, async |mut world| {
        let (there, other) = std::sync::mpsc::channel();
        let (ask, asked) = std::sync::mpsc::channel::<()>();
        let elsewhere = std::thread::spawn(move || {
            own_namespace();
            there.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            asked.recv().unwrap();
            links::by_name("mv0").unwrap()
        });
        let lower = world.veth("lower").await;
        world.add(LinkMacVtap::new("mv0", lower.index, MacVtapMode::Bridge).build());
        let link = world.appeared("mv0").await;
        let other = other.recv().unwrap();
        world.set(LinkUnspec::new_with_index(link.index).setns_by_fd(other.as_raw_fd()).build());
        world.gone(link.index).await;
        ask.send(()).unwrap();
        let LinkKind::Macvtap { mode, lower: index, lower_netns } = elsewhere.join().unwrap().unwrap().kind
        else {
            panic!("not a macvtap")
        };
        assert_eq!((mode, index), (MacvtapMode::Bridge, Some(lower.index)));
        assert!(lower_netns.is_some(), "the lower device is in another namespace");
    });
}

#[test]
fn a_snapshot_needs_no_monitor() {
    std::thread::spawn(|| {
        own_namespace();
        request(&socket(), Request::NewLink(LinkVeth::new("a", "b").build()));
        let names: Vec<String> = links::snapshot().unwrap().into_iter().map(|link| link.name).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(links::by_name("b").unwrap().unwrap().kind, LinkKind::Veth);
        assert_eq!(links::by_name("c").unwrap(), None);
    })
    .join()
    .unwrap();
}

/// Messages lost by the sockets of this namespace.
fn drops() -> u64 {
    let table = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    table.lines().skip(1).map(|line| line.split_whitespace().nth(8).unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
fn what_is_lost_in_a_flood_is_found_again() {
    world(NEVER, async |mut world| {
        let (renamed, deleted) = (world.veth("renamed").await, world.veth("deleted").await);
        // The monitor's task does not run meanwhile: this thread does not yield to it.
        let mut round = 0;
        while drops() == 0 {
            for _ in 0..500 {
                round += 1;
                assert!(round < 200_000, "nothing was lost");
                let name = format!("r{round}");
                world.set(LinkUnspec::new_with_index(renamed.index).name(name).build());
            }
        }
        world.delete(deleted.index);
        world.add(LinkVeth::new("deleted", "deleted-peer").build());
        println!("{} messages were lost after {round} renames", drops());

        let mut links = BTreeMap::from([(renamed.index, renamed.clone()), (deleted.index, deleted.clone())]);
        let last = format!("r{round}");
        while links.get(&renamed.index).is_none_or(|link| link.name != last)
            || !links.values().any(|link| link.name == "deleted" && link.index != deleted.index)
        {
            match world.event().await {
                LinkEvent::Appeared(link) => assert_eq!(links.insert(link.index, link), None),
                LinkEvent::Gone(link) => drop(links.remove(&link.index)),
                LinkEvent::Changed { old, new } => {
                    assert_eq!(old.index, new.index);
                    links.insert(new.index, new);
                }
            }
        }
        assert!(!links.contains_key(&deleted.index));
    });
}

#[test]
fn thousands_of_links_come_and_go_under_a_busy_receiver() {
    world(Duration::from_millis(20), async |mut world| {
        let (ready, wait) = std::sync::mpsc::channel();
        let namespace = File::open("/proc/thread-self/ns/net").unwrap();
        let flood = std::thread::spawn(move || {
            // SAFETY: changes the namespace of this thread and touches no memory.
            assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
            let socket = socket();
            for round in 0..400 {
                let (a, b) = (format!("f{round}"), format!("g{round}"));
                request(&socket, Request::NewLink(LinkVeth::new(&a, &b).build()));
                if round % 3 != 0 {
                    request(&socket, Request::DelLink(LinkUnspec::new_with_name(&a).build()));
                }
            }
            request(&socket, Request::NewLink(LinkBridge::new("end").build()));
            ready.send(links::snapshot().unwrap()).unwrap();
        });
        let mut links = BTreeMap::new();
        loop {
            match world.event().await {
                LinkEvent::Appeared(link) => {
                    assert_eq!(links.insert(link.index, link.clone()), None, "appeared twice");
                    if link.name == "end" {
                        break;
                    }
                }
                LinkEvent::Changed { old, new } => assert_eq!(links.insert(new.index, new), Some(old)),
                LinkEvent::Gone(link) => assert_eq!(links.remove(&link.index), Some(link)),
            }
        }
        flood.join().unwrap();
        let there = wait.recv().unwrap().into_iter().filter(|link| link.name != "lo");
        assert!(links.values().eq(&there.collect::<Vec<_>>()), "the monitor and a snapshot agree");
    });
}
