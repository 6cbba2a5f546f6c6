//! A hit allocates nothing: neither the way of a query through the resolver, nor the loop of datagrams around it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, missing_docs)]

#[path = "../benches/fixture/mod.rs"]
mod fixture;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fixture::{Crowd, crowd};
use nodens::cache::key::SearchListId;
use nodens::query::Proto;
use nodens::resolve::hit::Outcome;
use nodens::resolve::{Client, Resolver};
use nodens::search::Mode;
use nodens::server::stop::{self, InFlight, Quit};
use nodens::server::{tcp, udp};
use nodens::upstream::admission::Gate;
use nodens::wire::reply::MAX_MESSAGE;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts for each thread.
struct Counting;

fn count() {
    // A thread that is ending has no counter any more; nobody looks at it.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is passed on to the system's allocator as it came; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and the piece came from the same allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `realloc`, and the piece came from the same allocator.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations() -> u64 {
    ALLOCATIONS.get()
}

/// With EDNS and a cookie, in a letter case of its own.
fn decorated(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[11] = 1;
    packet[13].make_ascii_uppercase();
    packet.extend_from_slice(b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x0c\x00\x0a\x00\x0812345678");
    packet
}

fn answer_all(resolver: &Resolver, clients: &[Client], packets: &[Vec<u8>], out: &mut [u8]) {
    for (packets, clients) in packets.chunks(32).zip(clients.chunks(32).cycle()) {
        let batch = resolver.batch();
        for (packet, client) in packets.iter().zip(clients) {
            let outcome = resolver.answer(packet, *client, &batch, out);
            assert!(matches!(outcome, Outcome::Reply(1..)));
        }
    }
}

#[test]
fn hits_of_all_kinds_allocate_nothing() {
    let Crowd { resolver, clients, services, bare, steps } = crowd(Mode::Learn, SearchListId::SEARCHED);
    let over_tcp: Vec<Client> =
        clients.iter().map(|client| Client { proto: Proto::Tcp, ..*client }).collect();
    let mut out = vec![0; MAX_MESSAGE];
    for (kind, packets) in [("services", services), ("bare names", bare), ("composed", steps)] {
        let decorated: Vec<_> = packets.iter().map(|packet| decorated(packet)).collect();
        for (packets, clients) in [(&packets, &clients), (&packets, &over_tcp), (&decorated, &clients)] {
            // The first look-up may still move something up.
            answer_all(&resolver, clients, packets, &mut out);
            let before = allocations();
            answer_all(&resolver, clients, packets, &mut out);
            assert_eq!(allocations() - before, 0, "{kind}");
        }
    }
}

/// So many rounds of all services are asked.
const ROUNDS: u64 = 8;

/// What a loop allocates from the third round on, while a client asks in a thread of its own.
fn allocated<S: Future<Output = io::Result<()>> + 'static>(
    resolver: Resolver,
    client: impl FnOnce() + Send + 'static,
    serve: impl FnOnce(Rc<Resolver>, Quit) -> S + 'static,
) -> u64 {
    let client = std::thread::spawn(client);
    let (stopper, stop) = stop::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (allocated, answers) = tokio::task::LocalSet::new().block_on(&runtime, async move {
        let resolver = Rc::new(resolver);
        let cells = Arc::clone(&resolver.cells);
        let serving = tokio::task::spawn_local(serve(resolver, stop.quit()));
        let until = async |answers: u64| {
            while cells.ring.written() < answers {
                assert!(!client.is_finished() || cells.ring.written() >= answers, "the client has failed");
                tokio::task::yield_now().await;
            }
            (allocations(), cells.ring.written())
        };
        // What the first rounds set up is there; from then on the loop runs in what it has.
        let (before, so_far) = until(2 * 1024).await;
        let (after, in_all) = until(ROUNDS * 1024).await;
        stopper.stop();
        serving.await.unwrap().unwrap();
        client.join().unwrap();
        (after - before, in_all - so_far)
    });
    assert!(answers > 4 * 1024);
    allocated
}

/// A process that is stopped and continued meanwhile is interrupted where it waits with a time limit (signal(7)).
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> usize {
    loop {
        match socket.recv(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received.unwrap(),
        }
    }
}

#[test]
fn the_loop_of_datagrams_allocates_nothing() {
    let Crowd { resolver, services, .. } = crowd(Mode::Learn, SearchListId::SEARCHED);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let server = socket.local_addr().unwrap();
    let client = move || {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut buffer = [0; 1232];
        for _ in 0..ROUNDS {
            for some in services.chunks(64) {
                some.iter().for_each(|packet| assert_eq!(client.send(packet).unwrap(), packet.len()));
                some.iter().for_each(|_| assert!(receive(&client, &mut buffer) > 12));
            }
        }
    };
    let serve = |resolver, quit| udp::serve(socket, resolver, InFlight::default(), quit);
    assert_eq!(allocated(resolver, client, serve), 0);
}

#[test]
fn a_connection_of_hits_allocates_nothing() {
    let Crowd { resolver, services, .. } = crowd(Mode::Learn, SearchListId::SEARCHED);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let server = listener.local_addr().unwrap();
    let client = move || {
        let mut client = TcpStream::connect(server).unwrap();
        client.set_nodelay(true).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        for _ in 0..ROUNDS {
            for some in services.chunks(16) {
                let framed = |packet: &Vec<u8>| [&(packet.len() as u16).to_be_bytes(), &packet[..]].concat();
                client.write_all(&some.iter().flat_map(framed).collect::<Vec<u8>>()).unwrap();
                for _ in some {
                    let mut length = [0; 2];
                    client.read_exact(&mut length).unwrap();
                    let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
                    client.read_exact(&mut reply).unwrap();
                    assert!(reply.len() > 12);
                }
            }
        }
    };
    let gate = Arc::new(Gate::new(4, 4));
    let serve = |resolver, quit| tcp::serve(listener, resolver, gate, InFlight::default(), quit);
    assert_eq!(allocated(resolver, client, serve), 0);
}

#[test]
fn the_count_counts() {
    let before = allocations();
    drop(std::hint::black_box(vec![0u8; 100]));
    assert!(allocations() > before);
}
