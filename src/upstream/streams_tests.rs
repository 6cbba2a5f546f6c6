//! Connections under virtual time: how many are opened, what a question does when one ends.

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::super::simulation::{endpoint, local};
use super::*;

const MS: Duration = Duration::from_millis(1);

/// What a server does with one connection.
#[derive(Clone, Copy)]
struct Manners {
    lets_in: bool,
    opens_after: Duration,
    replies_after: Duration,
    /// How many questions it answers before it resets the connection at the next.
    answers: u32,
}

const GOOD: Manners =
    Manners { lets_in: true, opens_after: MS, replies_after: Duration::from_millis(10), answers: u32::MAX };

thread_local! {
    /// A test has its own thread, so this is its own server.
    static MANNERS: Cell<Manners> = const { Cell::new(GOOD) };
    static LIVES: RefCell<Vec<Rc<Life>>> = const { RefCell::new(Vec::new()) };
}

fn opened() -> usize {
    LIVES.with_borrow(Vec::len)
}

fn open_now() -> usize {
    LIVES.with_borrow(|lives| lives.iter().filter(|life| !life.closed.get()).count())
}

struct Fake {
    life: Rc<Life>,
    manners: Manners,
    answered: Cell<u32>,
}

impl Connection for Fake {
    const MAX_PIPELINED: usize = 4;
    const IDLE: Duration = Duration::from_secs(10);

    fn open(_: &Arc<Server>, life: Rc<Life>) -> Fake {
        LIVES.with_borrow_mut(|lives| lives.push(Rc::clone(&life)));
        let manners = MANNERS.get();
        let of_the_task = Rc::clone(&life);
        tokio::task::spawn_local(async move {
            sleep(manners.opens_after).await;
            if manners.lets_in {
                of_the_task.opened();
                of_the_task.over(Fake::IDLE).await;
            }
            of_the_task.close();
        });
        Fake { life, manners, answered: Cell::new(0) }
    }

    async fn ask(&self, query: &[u8], _: &[u8]) -> Reply {
        let start = Instant::now();
        loop {
            sleep(MS).await;
            if self.answered.get() >= self.manners.answers {
                self.life.close();
            }
            if self.life.closed.get() {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if self.life.opened.get() && start.elapsed() >= self.manners.replies_after {
                self.answered.set(self.answered.get() + 1);
                return Ok(query.to_vec());
            }
        }
    }
}

fn client() -> Rc<Client<Fake>> {
    Rc::new(Client::new(Arc::new(Server::new(0, endpoint(0)))))
}

async fn ask(client: &Client<Fake>) -> bool {
    client.ask(b"?", b"?").await.is_ok()
}

/// So many questions at once; how many were answered, and when the last one ended.
async fn ask_at_once(client: &Rc<Client<Fake>>, count: usize) -> (usize, Duration) {
    let start = Instant::now();
    let mut asking = JoinSet::new();
    for _ in 0..count {
        let client = Rc::clone(client);
        asking.spawn_local(async move { ask(&client).await });
    }
    let mut good = 0;
    while let Some(done) = asking.join_next().await {
        good += usize::from(done.unwrap());
    }
    (good, start.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_server_that_resets_or_refuses_each_connection_is_met_with_few() {
    local(async {
        for bad in [Manners { answers: 0, ..GOOD }, Manners { lets_in: false, ..GOOD }] {
            MANNERS.set(bad);
            let (client, before, start) = (client(), opened(), Instant::now());
            while start.elapsed() < Duration::from_secs(10) {
                assert_eq!(ask_at_once(&client, 8).await.0, 0);
                sleep(MS).await;
            }
            let count = opened() - before;
            // Pauses of 0.1, 0.2 … 2 s, each shortened by half at most.
            assert!((8..=16).contains(&count), "{count} connections in 10 s");
            MANNERS.set(GOOD);
            let start = Instant::now();
            while !ask(&client).await {
                sleep(MS).await;
            }
            assert!(start.elapsed() <= LONGEST_PAUSE + MS * 20, "{:?}", start.elapsed());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_served_and_ended_costs_no_question() {
    local(async {
        MANNERS.set(Manners { answers: 1, ..GOOD });
        let client = client();
        for count in 1..=20 {
            assert!(ask(&client).await);
            assert_eq!(opened(), count);
        }
        // Both connections end at once, as when the server is restarted.
        MANNERS.set(Manners { answers: 5, ..GOOD });
        let client = self::client();
        assert_eq!(ask_at_once(&client, 10).await.0, 10);
        MANNERS.set(GOOD);
        assert_eq!(ask_at_once(&client, 8).await.0, 8);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_finds_no_place_waits_for_one() {
    local(async {
        let client = client();
        assert!(ask(&client).await);
        assert_eq!(ask_at_once(&client, 20).await, (20, MS * 30), "eight at a time, on two connections");
        assert_eq!(opened(), 2);
        // And where there will be none, nobody waits for it.
        MANNERS.set(Manners { lets_in: false, opens_after: MS * 100, ..GOOD });
        let client = self::client();
        assert_eq!(ask_at_once(&client, 40).await, (0, MS * 100));
        assert_eq!(opened(), 4);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn age_and_count_end_a_connection_when_its_last_question_ends() {
    local(async {
        let client = client();
        assert!(ask(&client).await);
        MANNERS.set(Manners { replies_after: MAX_AGE, ..GOOD });
        let slow = ask_at_once(&client, 3);
        let later = async {
            sleep(MS * 30).await;
            MANNERS.set(GOOD);
            for _ in 0..70 {
                sleep(Duration::from_secs(1)).await;
                assert!(ask(&client).await);
                assert!(open_now() <= MAX_OPEN, "{}", open_now());
            }
        };
        let ((answered, _), ()) = tokio::join!(slow, later);
        assert_eq!(answered, 3, "they were waited for");
        let before = opened();
        for _ in 0..2 * MAX_QUESTIONS {
            assert!(ask(&client).await);
        }
        assert!(opened() - before >= 2, "{}", opened() - before);
        sleep(Fake::IDLE + MS).await;
        assert_eq!(open_now(), 0, "idle");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn connections_to_a_server_that_is_forgotten_end_with_their_last_question() {
    local(async {
        let client = client();
        assert_eq!(ask_at_once(&client, 2).await.0, 2);
        assert_eq!(open_now(), 2);
        drop(client);
        sleep(MS).await;
        assert_eq!(open_now(), 0);
    })
    .await;
}
