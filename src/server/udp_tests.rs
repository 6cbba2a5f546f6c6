//! A loop whose misses keep the worker busy.

use tokio::sync::Notify;

use super::*;
use crate::server::stop;

/// The first octet of a packet that can be answered at once; any other is a miss.
const HIT: u8 = 1;
/// Misses in the socket when the loop begins, and how many of them are begun when the hit is sent.
const MISSES: usize = 96;
const SENT_AFTER: usize = 20;

/// Each miss takes the worker longer than from one look to the next, like a system call and a half.
struct Busy {
    client: UdpSocket,
    begun: Cell<usize>,
    answered_after: Cell<usize>,
    answered: Notify,
}

impl Responder for Busy {
    type Batch<'s> = ();
    type Miss = ();

    fn batch(&self) {}

    fn answer(&self, packet: &[u8], _: Client, (): &(), out: &mut [u8]) -> Outcome<()> {
        if packet.first() != Some(&HIT) {
            return Outcome::Miss(());
        }
        self.answered_after.set(self.begun.get());
        self.answered.notify_one();
        out[0] = HIT;
        Outcome::Reply(1)
    }

    async fn answer_later(self: Rc<Self>, (): ()) -> Vec<u8> {
        self.begun.set(self.begun.get() + 1);
        if self.begun.get() == SENT_AFTER {
            self.client.send(&[HIT]).unwrap();
        }
        let start = Instant::now();
        while start.elapsed() < LOOK {}
        vec![0]
    }

    fn event(&self, _: Event) {}
}

#[test]
fn a_hit_has_its_turn_between_the_misses_that_came_before() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(socket.local_addr().unwrap()).unwrap();
    for _ in 0..MISSES {
        client.send(&[0]).unwrap();
    }
    let busy = Rc::new(Busy {
        client,
        begun: Cell::default(),
        answered_after: Cell::default(),
        answered: Notify::new(),
    });
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let (_stopper, stop) = stop::channel();
        let serving = serve(socket, Rc::clone(&busy), InFlight::default(), stop.quit());
        tokio::select! {
            ended = serving => panic!("{ended:?}"),
            () = busy.answered.notified() => {}
        }
    });
    let meanwhile = busy.answered_after.get() - SENT_AFTER;
    assert!(meanwhile <= 2, "{meanwhile} misses begun before the hit was answered");
}
