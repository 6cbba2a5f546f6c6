//! The pool on real sockets: how many are open, and for how long.

use std::rc::Weak;

use tokio::net::UdpSocket;

use super::*;
use crate::upstream::inbox::inbox;
use crate::upstream::simulation::local;

#[tokio::test]
async fn sockets_of_a_server_that_is_forgotten_last_as_long_as_a_question_waits() {
    local(async {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new(server.local_addr().unwrap());
        let (exchange, mut arrived) = inbox();
        let question = b"\x00\x00\x01\x00\x01";
        let query = crate::wire::edns::upstream_query(0, question, false, false, false);
        let wait = pool.send(query, question, Arrivals { exchange, number: 7 }).unwrap();
        let sockets: Vec<Weak<Socket>> = pool.sockets.borrow().iter().map(Rc::downgrade).collect();
        drop(pool);

        let mut buffer = [0; 512];
        let (length, from) = server.recv_from(&mut buffer).await.unwrap();
        buffer[2] |= 0x80;
        server.send_to(&buffer[..length], from).await.unwrap();
        assert!(matches!(arrived.next().await, (7, Arrival::Reply(_))));
        // Time stands still while this test is never idle: nothing goes for its age.
        tokio::time::pause();
        drop(wait);
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(sockets.iter().all(|socket| socket.strong_count() == 0));
    })
    .await;
}

/// Waits of a pool for a server that says nothing.
fn ask(pool: &Pool, count: usize) -> Vec<Wait> {
    let question = b"\x00\x00\x01\x00\x01";
    let query = crate::wire::edns::upstream_query(0, question, false, false, false);
    let (exchange, _) = inbox();
    let arrivals = |number| Arrivals { exchange: exchange.clone(), number };
    (0..count).map(|number| pool.send(query.clone(), question, arrivals(number)).unwrap()).collect()
}

async fn a_while() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn sockets_where_questions_wait_are_bounded_and_all_others_replaced() {
    local(async {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new(silent.local_addr().unwrap());
        tokio::time::pause();
        let most = MAX_SOCKETS * MAX_QUESTIONS as usize;
        // Nobody takes what the server is sent: its buffer is full soon, and what is sent then is lost.
        let mut waits = ask(&pool, 3 * most);
        assert_eq!(pool.open.get(), MAX_SOCKETS);
        assert_eq!(pool.sockets.borrow().len(), POOL, "all of them serve, although they are spent");
        tokio::time::advance(2 * MAX_AGE).await;
        a_while().await;
        waits.extend(ask(&pool, 100));
        assert_eq!((pool.open.get(), pool.sockets.borrow().len()), (MAX_SOCKETS, POOL));
        drop(waits);
        a_while().await;
        let waits = ask(&pool, 8 * POOL);
        a_while().await;
        assert_eq!((pool.open.get(), pool.sockets.borrow().len()), (POOL, POOL));
        assert!(pool.sockets.borrow().iter().all(|socket| !socket.is_spent.get()), "none of the old ones");
        drop((waits, pool));
    })
    .await;
}

#[tokio::test]
async fn a_refusal_is_told_to_whoever_waits_and_costs_the_next_question_nothing() {
    local(async {
        let closed = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let pool = Pool::new(closed);
        let question = b"\x00\x00\x01\x00\x01";
        let query = crate::wire::edns::upstream_query(0, question, false, false, false);
        let (exchange, mut arrived) = inbox();
        // Nothing is read meanwhile: what ICMP says waits at the sockets, until the next is sent there.
        let waits: Vec<_> = (0..64)
            .map(|number| {
                pool.send(
                    query.clone(),
                    question,
                    Arrivals { exchange: exchange.clone(), number: number % 4 },
                )
            })
            .collect();
        assert!(waits.iter().all(Result::is_ok));
        assert!(matches!(arrived.next().await, (_, Arrival::Refused(io::ErrorKind::ConnectionRefused))));
    })
    .await;
}
