//! What came of the packets that were sent in a stretch of time, and what two such stretches say together.
//!
//! Packets are counted by the window they were *sent* in, so that an answer counts for the rate that it was asked at, however late
//! it comes. Not every loss says something about a rate, see `Window::losses`.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::quality::RandomState;

use super::budget::BURST;

/// A window has enough packets; half as many say something.
pub const ENOUGH: u32 = 100;
/// Different places of loss that a window remembers; a further one counts as lost for good.
const SPOTS: usize = 512;
/// Parent domains that have to lose in one window where no retry says that the server is there.
const DOMAINS: usize = 8;
/// The least part of loss that is reckoned with, for the deviation of a path that has lost nothing yet.
pub const LEAST_LOSS: f64 = 0.005;
/// Rates that differ by less are equal.
pub const RISE: f64 = 1.03;
/// How many standard deviations of chance answers must fall short by, for more sent and no more delivered.
const FLAT_SIGMA: f64 = 2.5;
/// The same where delivered rose, but not as sent did: a limit that was reached on the way.
const PARTLY_SIGMA: f64 = 6.0;

/// Where a packet went, and for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spot {
    /// The server's number.
    pub server: u32,
    /// The parent domain of the name asked for, as a hash.
    pub domain: u64,
}

/// The counts of a stretch of time.
#[derive(Debug)]
pub struct Window {
    begun: Duration,
    ended: Option<Duration>,
    /// Packets a second that could be sent in it.
    pub rate: f64,
    sent: u32,
    /// Of these, how many had to wait for their turn.
    waited: u32,
    /// Retries that the share of retries kept back.
    kept_back: u32,
    delivered: u32,
    declined: u32,
    lost: HashMap<Spot, Loss, RandomState>,
    /// Losses beyond [`SPOTS`],
    lost_more: u32,
    /// and refusals.
    declined_more: u32,
    /// Servers that answered, a bit each; beyond 64 they share.
    answering: u64,
    closed: Option<Losses>,
}

#[derive(Debug, Default)]
struct Loss {
    packets: u32,
    /// Of these, those that went out while others there were answered.
    beside: u32,
    declined: u32,
    /// A retry there was answered: the server is there, and knows the domain.
    proven: bool,
}

/// Losses at servers that answer.
#[derive(Clone, Copy, Debug)]
struct Losses {
    counted: u32,
    doubtful: u32,
    declined: u32,
}

impl Window {
    /// Nothing was sent yet.
    pub fn new(begun: Duration, rate: f64) -> Window {
        Window {
            begun,
            ended: None,
            rate,
            sent: 0,
            waited: 0,
            kept_back: 0,
            delivered: 0,
            declined: 0,
            lost: HashMap::default(),
            lost_more: 0,
            declined_more: 0,
            answering: 0,
            closed: None,
        }
    }

    /// A packet goes out; `waited`: it had to wait for its turn.
    pub fn sent(&mut self, waited: bool) {
        self.sent += 1;
        self.waited += u32::from(waited);
    }

    /// A retry is kept back by the share of retries.
    pub fn kept_back(&mut self) {
        self.kept_back += 1;
    }

    /// Packets went out and arrived.
    pub fn streamed(&mut self, packets: u32) {
        self.sent = self.sent.saturating_add(packets);
        self.delivered = self.delivered.saturating_add(packets);
    }

    /// A packet was answered.
    pub fn delivered(&mut self, server: u32) {
        self.delivered += 1;
        self.answering |= 1 << (server % 64);
    }

    /// A packet was given up; `others_come`: others there were answered meanwhile.
    pub fn lost(&mut self, spot: Spot, others_come: bool) {
        match self.loss(spot) {
            Some(loss) => {
                loss.packets += 1;
                loss.beside += u32::from(others_come);
            }
            None => self.lost_more += 1,
        }
    }

    /// A packet was refused, by a limiter or for good.
    pub fn declined(&mut self, spot: Spot) {
        self.declined += 1;
        // At most half of the places: losses need theirs.
        let has_room = self.lost.len() < SPOTS / 2 || self.lost.contains_key(&spot);
        match has_room.then(|| self.loss(spot)).flatten() {
            Some(loss) => loss.declined += 1,
            None => self.declined_more += 1,
        }
    }

    /// A packet that was given up was answered late.
    pub fn found(&mut self, spot: Spot) {
        if let Some(loss) = self.lost.get_mut(&spot) {
            loss.packets = loss.packets.saturating_sub(1);
            self.delivered(spot.server);
        }
    }

    /// A retry was answered.
    pub fn proven(&mut self, spot: Spot) {
        if let Some(loss) = self.loss(spot) {
            loss.proven = true;
        }
    }

    /// Nobody will know what came of a packet.
    pub fn forgotten(&mut self) {
        self.sent = self.sent.saturating_sub(1);
    }

    /// Nothing more is sent in it.
    pub fn end(&mut self, now: Duration) {
        self.ended = Some(now);
    }

    /// Nothing more is counted in it; what its losses were counted by is forgotten.
    pub fn close(&mut self) {
        self.closed = Some(self.losses());
        self.lost = HashMap::default();
    }

    /// It takes no more counts.
    pub fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// When it began.
    pub fn begun(&self) -> Duration {
        self.begun
    }

    /// When it ended.
    pub fn ended(&self) -> Option<Duration> {
        self.ended
    }

    /// How long it is, so far.
    pub fn length(&self, now: Duration) -> Duration {
        self.ended.unwrap_or(now).saturating_sub(self.begun)
    }

    /// It has gone on for so long, and has enough packets and answers or has gone on for longer than it is worth waiting.
    pub fn is_full(&self, now: Duration, length: Duration, longest: Duration) -> bool {
        let age = self.length(now);
        age >= length && (self.sent >= ENOUGH && self.delivered >= ENOUGH / 2 || age >= longest)
    }

    /// The rate was what kept more from being sent: most packets waited and it was used up, or more than a few retries
    /// would have needed more than their share of it.
    pub fn is_bound(&self, now: Duration) -> bool {
        let seconds = self.length(now).as_secs_f64();
        let is_used_up = self.waited * 2 >= self.sent && f64::from(self.sent) >= 0.8 * self.rate * seconds;
        is_used_up || self.kept_back * 20 > self.sent
    }

    /// What it says, if it has an end and enough packets: refusals are none of them.
    pub fn sample(&self) -> Option<Sample> {
        self.sample_of(self.sent.saturating_sub(self.declined), self.delivered + self.losses().counted)
    }

    /// The same if refusals were a limiter's. What a server refuses for good it refuses at any rate: they count where rates are compared.
    pub fn refusing(&self) -> Option<Sample> {
        let losses = self.losses();
        self.sample_of(self.sent, self.delivered + losses.counted + losses.declined)
    }

    /// The same if all losses counted.
    pub fn darkest(&self) -> Option<Sample> {
        let losses = self.losses();
        self.sample_of(self.sent, self.delivered + losses.counted + losses.declined + losses.doubtful)
    }

    /// The same if nothing came of what is still on its way.
    pub fn so_far(&self) -> Option<Sample> {
        self.sample_of(self.sent, self.sent)
    }

    fn sample_of(&self, sent: u32, packets: u32) -> Option<Sample> {
        let seconds = self.ended?.saturating_sub(self.begun).as_secs_f64();
        let packets = (packets >= ENOUGH / 2).then(|| f64::from(packets))?;
        let part = (f64::from(self.delivered) / packets).min(1.0);
        (seconds > 0.0).then(|| Sample { sent: f64::from(sent) / seconds, part, packets, seconds })
    }

    fn loss(&mut self, spot: Spot) -> Option<&mut Loss> {
        let has_room = self.lost.len() < SPOTS || self.lost.contains_key(&spot);
        has_room.then(|| self.lost.entry(spot).or_default())
    }

    /// Losses that may be a limit's. A server that answers nothing in a window is down, not slow. Where it answers, a loss counts if a
    /// retry for that domain was answered there, or others were meanwhile. Silence without either counts only if eight parent domains
    /// or more lost, and then none of them for more than the eighth: names whose own servers are down are asked again and again. So
    /// with refusals.
    fn losses(&self) -> Losses {
        if let Some(closed) = self.closed {
            return closed;
        }
        let answers = |spot: &Spot| self.answering & 1 << (spot.server % 64) != 0;
        let losses = || self.lost.iter().filter(|(spot, _)| answers(spot)).map(|(_, loss)| loss);
        let (lost, refused) =
            (eighth(losses().map(|loss| loss.packets)), eighth(losses().map(|loss| loss.declined)));
        let counts = |loss: &Loss| match loss.proven {
            true => loss.packets,
            false => loss.packets.min(lost.max(loss.beside)),
        };
        let all = losses().map(|loss| loss.packets).sum::<u32>();
        let counted = losses().map(counts).sum::<u32>();
        let declined = losses().map(|loss| loss.declined.min(refused)).sum::<u32>();
        Losses {
            counted: counted + self.lost_more,
            doubtful: all - counted,
            declined: declined + self.declined_more,
        }
    }
}

/// How many packets the parent domain lost that lost the most but for [`DOMAINS`] less one.
fn eighth(losses: impl Iterator<Item = u32>) -> u32 {
    let mut losses: Vec<u32> = losses.collect();
    losses.sort_unstable_by(|one, other| other.cmp(one));
    losses.get(DOMAINS - 1).copied().unwrap_or(0)
}

/// What a window says.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Packets sent, a second.
    pub sent: f64,
    /// The part that was answered, of the packets that say something.
    pub part: f64,
    /// How many of these there are.
    packets: f64,
    /// How long it was.
    seconds: f64,
}

/// What becomes of what is delivered when more is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// More is delivered.
    Rose,
    /// No more is delivered, or less more than was sent: there is a limit.
    Flat,
    /// It cannot be told from chance.
    Unclear,
}

impl Sample {
    /// Packets that got through, a second: what says nothing is taken to fare as the rest.
    pub fn delivered(&self) -> f64 {
        self.sent * self.part
    }

    /// How much more was sent than before.
    pub fn rise(&self, before: &Sample) -> f64 {
        self.sent / before.sent.max(1.0)
    }

    /// What gets through for good: less the burst that a limiter has saved up while less was sent.
    pub fn sustained(&self) -> f64 {
        self.delivered() - f64::from(BURST) / self.seconds
    }

    /// What part of the rise in what was sent is seen in what was delivered: 1 where no limit is, 0 at one.
    pub fn elasticity(&self, before: &Sample) -> f64 {
        (self.sustained() / before.delivered().max(1.0) - 1.0) / (self.rise(before) - 1.0).max(0.001)
    }

    /// By how many standard deviations the part is smaller than before.
    pub fn deviations_below(&self, before: &Sample) -> f64 {
        let spread = before.part.min(1.0 - LEAST_LOSS) * (1.0 - before.part).max(LEAST_LOSS);
        (before.part - self.part) / (spread * (1.0 / self.packets + 1.0 / before.packets)).sqrt()
    }

    /// The same for a part that is known by other means.
    pub fn deviations_below_part(&self, part: f64) -> f64 {
        let spread = part.min(1.0 - LEAST_LOSS) * (1.0 - part).max(LEAST_LOSS);
        (part - self.part) / (spread / self.packets).sqrt()
    }

    /// It delivers too little for what it sent more than the other, by more than chance now and then.
    pub fn falls_behind(&self, other: &Sample) -> bool {
        let (elasticity, deviations) = (self.elasticity(other), self.deviations_below(other));
        self.rise(other) >= RISE
            && (elasticity < 0.5 && deviations >= 1.0 || elasticity < 0.9 && deviations >= FLAT_SIGMA)
    }

    /// What it says against one at a lower rate.
    pub fn verdict(&self, before: &Sample) -> Verdict {
        if self.rise(before) < RISE {
            return Verdict::Unclear;
        }
        let (elasticity, deviations) = (self.elasticity(before), self.deviations_below(before));
        if elasticity < 0.5 && deviations >= FLAT_SIGMA || elasticity < 0.9 && deviations >= PARTLY_SIGMA {
            Verdict::Flat
        } else if elasticity >= 0.5 {
            Verdict::Rose
        } else {
            Verdict::Unclear
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn spot(server: u32, domain: u64) -> Spot {
        Spot { server, domain }
    }

    /// A second in which a server answered so many and lost so many under each of some domains.
    fn window(delivered: u32, lost: &[(Spot, u32)]) -> Window {
        let mut window = Window::new(Duration::ZERO, 1000.0);
        (0..delivered).for_each(|_| {
            window.sent(false);
            window.delivered(0);
        });
        for (spot, packets) in lost {
            (0..*packets).for_each(|_| {
                window.sent(false);
                window.lost(*spot, false);
            });
        }
        window.end(SECOND);
        window
    }

    fn parts(window: &Window) -> (u32, u32) {
        let losses = window.losses();
        (losses.counted, losses.doubtful)
    }

    #[test]
    fn silence_under_few_domains_does_not_count_without_a_retrys_answer() {
        let seven: Vec<_> = (0..7).map(|domain| (spot(0, domain), 50)).collect();
        let mut silent = window(500, &seven);
        assert_eq!(parts(&silent), (0, 350));
        silent.proven(spot(0, 3));
        assert_eq!(parts(&silent), (50, 300));
    }

    #[test]
    fn silence_counts_where_others_were_answered_meanwhile_but_no_retry_of_it() {
        let mut window = window(500, &[(spot(0, 1), 40)]);
        (0..10).for_each(|_| window.lost(spot(0, 1), true));
        assert_eq!(parts(&window), (10, 40));
        (0..45).for_each(|_| window.found(spot(0, 1)));
        assert_eq!(parts(&window), (5, 0), "no more than were lost");
    }

    #[test]
    fn refusals_count_beside_and_for_no_domain_more_than_for_the_eighth() {
        let mut window = window(500, &[]);
        for domain in 0..8 {
            let packets = if domain == 0 { 300 } else { 2 };
            (0..packets).for_each(|_| {
                window.sent(false);
                window.declined(spot(0, domain));
            });
        }
        assert_eq!(window.losses().declined, 16);
        let part = |sample: Option<Sample>| sample.map(|sample| (sample.sent, sample.part));
        assert_eq!(part(window.sample()), Some((500.0, 1.0)));
        assert_eq!(part(window.refusing()), Some((814.0, 500.0 / 516.0)));
        (8..1000).for_each(|domain| window.declined(spot(0, domain)));
        assert_eq!(window.lost.len(), SPOTS / 2, "losses have room");
    }

    #[test]
    fn silence_under_eight_domains_counts_but_no_domain_for_more_than_the_eighth() {
        let mut eight: Vec<_> = (0..8).map(|domain| (spot(0, domain), 2)).collect();
        eight[0].1 = 500;
        assert_eq!(parts(&window(500, &eight)), (16, 498));
    }

    #[test]
    fn a_server_that_answers_nothing_says_nothing() {
        let down: Vec<_> = (0..20).map(|domain| (spot(1, domain), 10)).collect();
        let mut window = window(500, &down);
        assert_eq!(parts(&window), (0, 0));
        window.found(spot(1, 3));
        assert_eq!(parts(&window), (199, 0), "one answer and it is there");
    }

    #[test]
    fn spots_are_bounded() {
        let mut window = window(500, &[]);
        (0..1000).for_each(|domain| window.lost(spot(0, domain), false));
        assert_eq!((window.lost.len(), window.lost_more), (SPOTS, 488));
        assert_eq!(parts(&window).0, 1000);
        window.close();
        assert_eq!((window.lost.len(), parts(&window).0), (0, 1000));
    }

    fn verdict(before: (f64, f64), after: (f64, f64)) -> Verdict {
        let sample = |(sent, part): (f64, f64)| Sample { sent, part, packets: sent, seconds: 1.0 };
        sample(after).verdict(&sample(before))
    }

    #[test]
    fn what_falls_behind() {
        let falls_behind = |after: (f64, f64), trial: (f64, f64)| {
            let sample = |(sent, part): (f64, f64)| Sample { sent, part, packets: sent, seconds: 1.0 };
            sample(trial).falls_behind(&sample(after))
        };
        // A limit of 1,000 from below it and from above, and one of 1,500 that is reached on the way.
        assert!(falls_behind((985.0, 1.0), (1045.0, 0.957)) && falls_behind((2000.0, 0.5), (4000.0, 0.25)));
        assert!(falls_behind((1000.0, 1.0), (2000.0, 0.75)));
        // The same losses at both rates, and none more sent.
        assert!(!falls_behind((1000.0, 0.67), (2000.0, 0.67)) && !falls_behind((1000.0, 1.0), (1010.0, 0.5)));
    }

    #[test]
    fn verdicts() {
        // A limit of 1,000, from below it and from above.
        assert_eq!(verdict((985.0, 1.0), (1045.0, 0.957)), Verdict::Flat);
        assert_eq!(verdict((2000.0, 0.5), (4000.0, 0.25)), Verdict::Flat);
        // Reached on the way: 1,500.
        assert_eq!(verdict((1000.0, 1.0), (2000.0, 0.75)), Verdict::Flat);
        // No limit, with and without loss; chance.
        assert_eq!(verdict((1000.0, 1.0), (2000.0, 1.0)), Verdict::Rose);
        assert_eq!(verdict((1000.0, 0.81), (1060.0, 0.80)), Verdict::Rose);
        assert_eq!(verdict((1000.0, 0.81), (1060.0, 0.785)), Verdict::Unclear);
        // Not more than before.
        assert_eq!(verdict((1000.0, 1.0), (1020.0, 0.5)), Verdict::Unclear);
    }
}
