//! Before against after: whether a release is worse than the one before it, than chance explains, or whether too little
//! was seen to say so.
//!
//! It is asked again and again while a release is watched, so each answer must be nearly sure: a chance of one in a
//! million at every look. Besides, the difference must matter to somebody.

use super::Judgement;
use super::chance::{at_least, at_most, fisher, line};

/// Below this chance it is no chance. A watch of ten minutes looks some thousand times.
const SURE: f64 = 1e-6;
/// Fewer requests than this say nothing good about a release, and nothing bad about its speed or its log.
pub const ENOUGH_REQUESTS: u64 = 50;
/// Fewer bad ones than this are chance, whatever was before.
const ENOUGH_BAD: u64 = 5;
/// A share of errors that is borne where nothing is known of before.
const BORNE: f64 = 0.25;

/// What a comparison says, and why in words for a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// Good, bad or not enough.
    pub judgement: Judgement,
    /// What was seen, as a sentence without its full stop.
    pub why: String,
}

impl Judged {
    fn new(judgement: Judgement, why: impl Into<String>) -> Judged {
        Judged { judgement, why: why.into() }
    }

    /// Whether it is bad.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        self.judgement == Judgement::Bad
    }
}

/// Some of many: errors of requests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Share {
    /// The bad ones.
    pub bad: u64,
    /// All of them.
    pub of: u64,
}

impl Share {
    /// From 0 to 1; 0 of nothing.
    #[must_use]
    pub fn rate(self) -> f64 {
        if self.of == 0 { 0.0 } else { self.bad as f64 / self.of as f64 }
    }

    /// What came after `mark`.
    #[must_use]
    pub fn since(self, mark: Share) -> Share {
        Share { bad: self.bad.saturating_sub(mark.bad), of: self.of.saturating_sub(mark.of) }
    }
}

fn percent(rate: f64) -> String {
    format!("{:.1} %", rate * 100.0)
}

fn few(requests: u64) -> Judged {
    let requests = if requests == 1 { "1 request".to_owned() } else { format!("{requests} requests") };
    Judged::new(Judgement::NotEnough, format!("not enough traffic: {requests}"))
}

/// Whether requests fail more often than before.
#[must_use]
pub fn errors(before: Share, after: Share) -> Judged {
    let (rate, was) = (after.rate(), before.rate());
    // However few there were before, their number is part of the test: measured against their mere rate, one of 20 that
    // failed by chance made an alarm of a release that was no worse.
    let chance = match before.of {
        0 => at_least(after.bad, after.of, BORNE),
        _ => fisher(before.bad, before.of, after.bad, after.of),
    };
    let said = format!(
        "{} of {} requests failed ({}), before it were {} of {} ({})",
        after.bad,
        after.of,
        percent(rate),
        before.bad,
        before.of,
        percent(was)
    );
    // Two in a hundred more, and twice as many: less than that is nobody's reason to go back.
    if after.bad >= ENOUGH_BAD && chance < SURE && rate > 2.0 * was + 0.02 {
        return Judged::new(Judgement::Bad, said);
    }
    if after.of < ENOUGH_REQUESTS { few(after.of) } else { Judged::new(Judgement::Good, said) }
}

/// How long answers took: for each upper limit, in microseconds and rising, how many came within it and not within the
/// one before.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Spread(pub Vec<(u64, u64)>);

impl Spread {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }

    /// The limit within which this share of them came, microseconds; `None` of nothing.
    #[must_use]
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let all = self.count();
        let rank = ((all as f64 * share).ceil() as u64).clamp(1, all.max(1));
        let mut seen = 0;
        self.0.iter().find_map(|(limit, count)| {
            seen += count;
            (all > 0 && seen >= rank).then_some(*limit)
        })
    }

    /// Those that took longer.
    #[must_use]
    pub fn beyond(&self, micros: u64) -> Share {
        let bad = self.0.iter().filter(|(limit, _)| *limit > micros).map(|(_, count)| count).sum();
        Share { bad, of: self.count() }
    }

    /// What came after `mark`, an earlier state of the same counters.
    #[must_use]
    pub fn since(&self, mark: &Spread) -> Spread {
        let earlier = |limit: u64| mark.0.iter().find(|(at, _)| *at == limit).map_or(0, |(_, count)| *count);
        Spread(self.0.iter().map(|(limit, count)| (*limit, count.saturating_sub(earlier(*limit)))).collect())
    }
}

fn ms(micros: u64) -> String {
    if micros < 10_000 {
        format!("{:.1} ms", micros as f64 / 1_000.0)
    } else {
        format!("{} ms", micros / 1_000)
    }
}

/// Whether answers take so much longer that users notice: half of them three times as long as half of them did, or one
/// in twenty three times as long as the slowest hundredth did. Noise of a busy machine is less than that.
#[must_use]
pub fn latency(before: &Spread, after: &Spread) -> Judged {
    let (Some(p50_was), Some(p99_was)) = (before.quantile(0.5), before.quantile(0.99)) else {
        return Judged::new(
            Judgement::NotEnough,
            "nothing was answered before, so there is nothing to compare with",
        );
    };
    if after.count() < ENOUGH_REQUESTS {
        return few(after.count());
    }
    if before.count() < ENOUGH_REQUESTS {
        let why = format!("not enough traffic before: {} requests", before.count());
        return Judged::new(Judgement::NotEnough, why);
    }
    let (p50, p99) = (after.quantile(0.5).unwrap_or(0), after.quantile(0.99).unwrap_or(0));
    let said =
        format!("p50 {} and p99 {}, before it were {} and {}", ms(p50), ms(p99), ms(p50_was), ms(p99_was));
    let worse = |limit: u64, share: f64| {
        let (was, is) = (before.beyond(limit), after.beyond(limit));
        is.rate() > share && fisher(was.bad, was.of, is.bad, is.of) < SURE
    };
    if worse(p50_was * 3 + 20_000, 0.5) || worse(p99_was * 3 + 200_000, 0.05) {
        return Judged::new(Judgement::Bad, said);
    }
    Judged::new(Judgement::Good, said)
}

/// Something counted, against what it is counted over: requests, or milliseconds where there are no requests to count.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// How many.
    pub n: u64,
    /// Over so much.
    pub over: u64,
}

/// Whether something happens more often than before: lines of one shape in a log.
#[must_use]
pub fn more(before: Count, after: Count) -> bool {
    if after.n < ENOUGH_BAD || after.over == 0 {
        return false;
    }
    // Something must have been looked at before; the least is as much as a fifth of after.
    let over = before.over.max(after.over / 5).max(1);
    let share = after.over as f64 / (after.over + over) as f64;
    let expected = before.n as f64 * after.over as f64 / over as f64;
    after.n as f64 > 3.0 * expected && at_least(after.n, before.n + after.n, share) < SURE
}

/// Whether something that customers do has all but stopped, or become much rarer, although they are there as before.
#[must_use]
pub fn fewer(name: &str, before: Count, after: Count) -> Judged {
    let expected =
        if before.over == 0 { 0.0 } else { before.n as f64 * after.over as f64 / before.over as f64 };
    let said =
        format!("{name}: {} since the switch, where {expected:.0} were to be expected from before", after.n);
    if expected < 20.0 {
        let why = format!("not enough traffic: {name} {} since the switch, {} before", after.n, before.n);
        return Judged::new(Judgement::NotEnough, why);
    }
    let share = after.over as f64 / (after.over + before.over) as f64;
    if (after.n as f64) < expected / 4.0 && at_most(after.n, before.n + after.n, share) < SURE {
        return Judged::new(Judgement::Bad, said);
    }
    Judged::new(Judgement::Good, said)
}

/// A count now against the same hours of earlier days, which differ from each other too.
#[must_use]
pub fn same_hours(name: &str, now: u64, earlier: &[u64]) -> Judged {
    let days = earlier.len() as f64;
    let (least, mean) =
        (earlier.iter().min().copied().unwrap_or(0), earlier.iter().sum::<u64>() as f64 / days.max(1.0));
    let said = format!("{name}: {now}, in the same hours of {} earlier days {earlier:?}", earlier.len());
    if earlier.len() < 2 || least < 20 {
        return Judged::new(Judgement::NotEnough, format!("not enough to compare with: {said}"));
    }
    let sum: u64 = earlier.iter().sum();
    let rare = (now as f64) < least as f64 / 4.0 && at_most(now, now + sum, 1.0 / (days + 1.0)) < SURE;
    let judgement = if rare { Judgement::Bad } else { Judgement::Good };
    Judged::new(judgement, if rare { said } else { format!("{said}; mean {mean:.0}") })
}

/// What a level does over time: memory used, room on a disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// Change a second.
    pub per_second: f64,
    /// Seconds until `left` is used up at that pace.
    pub lasts_s: f64,
}

/// Whether the level rises steadily, by `least` at the least, and will have risen by `left` more within a day. The second
/// half must rise as the first did: what fills a cache slows down. `points` are seconds and levels.
#[must_use]
pub fn running_out(points: &[(f64, f64)], least: f64, left: f64) -> Option<Trend> {
    const A_DAY: f64 = 86_400.0;
    if points.len() < 10 {
        return None;
    }
    let (first, last) = (points.first()?, points.last()?);
    let half = points.len() / 2;
    let ((all, fit), (early, _), (late, late_fit)) =
        (line(points)?, line(&points[..half])?, line(&points[half..])?);
    let steady = fit > 0.9 && late_fit > 0.7 && all > 0.0 && late > 0.5 * early.max(all);
    let lasts_s = left / all;
    (steady && last.1 - first.1 >= least && lasts_s < A_DAY).then_some(Trend { per_second: all, lasts_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64: draws that every run repeats.
    struct Draws(u64);

    impl Draws {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }

        fn unit(&mut self) -> f64 {
            (self.next() >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn of(&mut self, n: u64, p: f64) -> u64 {
            (0..n).filter(|_| self.unit() < p).count() as u64
        }

        /// Answers with a long tail, as real ones have: most below `typical`, some many times that.
        fn spread(&mut self, n: u64, typical: f64) -> Spread {
            let mut spread = Spread((0..200).map(|at| (1.1_f64.powi(at + 40) as u64, 0)).collect());
            for _ in 0..n {
                let micros = (typical * -(self.unit().max(1e-9)).ln()) as u64;
                let at = spread.0.iter().position(|(limit, _)| *limit > micros).unwrap_or(199);
                spread.0[at].1 += 1;
            }
            spread
        }
    }

    fn share(bad: u64, of: u64) -> Share {
        Share { bad, of }
    }

    #[test]
    fn small_numbers_are_not_enough_and_never_an_alarm() {
        use Judgement::{Bad, Good, NotEnough};
        let judged = |before, after| errors(before, after).judgement;
        assert_eq!(judged(share(0, 1_000), share(2, 4)), NotEnough, "two errors are chance");
        assert_eq!(judged(share(0, 1_000), share(0, 3)), NotEnough);
        assert_eq!(errors(share(0, 1_000), share(0, 3)).why, "not enough traffic: 3 requests");
        assert_eq!(judged(share(0, 1_000), share(5, 5)), Bad);
        assert_eq!(judged(share(0, 0), share(10, 10)), Bad, "without a before");
        assert_eq!(judged(share(0, 0), share(8, 40)), NotEnough);
        assert_eq!(judged(share(200, 1_000), share(30, 150)), Good, "the release before was as bad");
        assert_eq!(judged(share(0, 100_000), share(30, 10_000)), Good, "three in a thousand");
        assert_eq!(judged(share(1, 2_000), share(20, 200)), Bad);
    }

    #[test]
    fn thousands_of_good_releases_raise_no_false_alarm() {
        let mut draws = Draws(7);
        let mut looks = 0;
        for round in 0..3_000_u64 {
            let rate = [0.0, 0.001, 0.01, 0.05, 0.2][(round % 5) as usize];
            let size = [3, 20, 60, 200, 600][(round / 5 % 5) as usize];
            let before = share(draws.of(size, rate), size);
            let mut after = Share::default();
            // The watch looks again and again as requests come in.
            for _ in 0..10 {
                let more = size / 5 + 1;
                after = share(after.bad + draws.of(more, rate), after.of + more);
                looks += 1;
                let judged = errors(before, after);
                assert!(!judged.is_bad(), "round {round}: {before:?} {after:?} {judged:?}");
            }
        }
        assert_eq!(looks, 30_000);
    }

    #[test]
    fn a_release_that_fails_is_found_within_few_requests() {
        let mut draws = Draws(11);
        for (rate, within) in [(1.0, 6), (0.5, 30), (0.1, 450)] {
            for _ in 0..100 {
                let before = share(draws.of(500, 0.002), 500);
                let mut after = Share::default();
                while !errors(before, after).is_bad() {
                    after = share(after.bad + draws.of(1, rate), after.of + 1);
                    assert!(after.of <= within, "{rate}: still not seen at {after:?}, before {before:?}");
                }
            }
        }
    }

    #[test]
    fn noise_in_latency_is_no_alarm_and_ten_times_slower_is() {
        let mut draws = Draws(3);
        for round in 0..300_u64 {
            let (typical, size) = ([300.0, 2_000.0, 40_000.0][(round % 3) as usize], 50 + round);
            // A machine that is up to twice as busy is no slower release.
            let busier = 1.0 + draws.unit();
            let (before, same) = (draws.spread(size, typical), draws.spread(size, typical * busier));
            assert!(!latency(&before, &same).is_bad(), "{round}: {}", latency(&before, &same).why);
        }
        for typical in [10_000.0, 40_000.0] {
            let (before, slow) = (draws.spread(200, typical), draws.spread(80, typical * 10.0));
            assert!(latency(&before, &slow).is_bad(), "{typical}: {}", latency(&before, &slow).why);
        }
        let (before, slow) = (draws.spread(200, 40_000.0), draws.spread(30, 400_000.0));
        assert_eq!(latency(&before, &slow).judgement, Judgement::NotEnough);
        assert_eq!(latency(&before, &slow).why, "not enough traffic: 30 requests");
    }

    #[test]
    fn lines_of_a_log_are_compared_over_requests() {
        let count = |n, over| Count { n, over };
        assert!(!more(count(10, 1_000), count(12, 1_000)));
        assert!(!more(count(0, 1_000), count(4, 1_000)), "four lines are not enough");
        assert!(more(count(0, 1_000), count(30, 300)));
        assert!(!more(count(0, 0), count(6, 300)), "of before nothing is known");
        let mut draws = Draws(5);
        for _ in 0..2_000 {
            let (before, after) = (draws.of(400, 0.05), draws.of(400, 0.05));
            assert!(!more(count(before, 400), count(after, 400)), "{before} {after}");
        }
    }

    #[test]
    fn orders_that_stop_are_noticed_and_rare_ones_are_not_enough() {
        let count = |n, over| Count { n, over };
        assert!(fewer("orders", count(200, 400), count(0, 100)).is_bad());
        assert_eq!(fewer("orders", count(200, 400), count(45, 100)).judgement, Judgement::Good);
        assert_eq!(fewer("orders", count(5, 10), count(0, 8)).judgement, Judgement::NotEnough);
        let mut draws = Draws(9);
        for _ in 0..2_000 {
            let (before, after) = (draws.of(600, 0.1), draws.of(300, 0.1));
            assert!(!fewer("orders", count(before, 600), count(after, 300)).is_bad(), "{before} {after}");
        }
        assert!(same_hours("orders", 2, &[40, 55, 38]).is_bad());
        assert_eq!(same_hours("orders", 20, &[40, 55, 38]).judgement, Judgement::Good);
        assert_eq!(same_hours("orders", 0, &[4, 5, 3]).judgement, Judgement::NotEnough);
        assert_eq!(same_hours("orders", 0, &[400]).judgement, Judgement::NotEnough);
    }

    #[test]
    fn a_leak_runs_out_and_a_cache_that_fills_does_not() {
        let points = |of: &dyn Fn(f64) -> f64| {
            (0..40).map(|at| (f64::from(at), of(f64::from(at)))).collect::<Vec<_>>()
        };
        let trend = running_out(&points(&|t| 1e8 + 2e6 * t), 5e7, 1e9).unwrap();
        assert!((trend.per_second - 2e6).abs() < 1.0 && (trend.lasts_s - 500.0).abs() < 1.0, "{trend:?}");
        assert_eq!(
            running_out(&points(&|t| 1e8 + 1e8 * (1.0 - (-t / 8.0).exp())), 5e7, 1e9),
            None,
            "a cache"
        );
        assert_eq!(running_out(&points(&|t| 1e8 + 1e5 * t), 5e7, 1e9), None, "too little to matter");
        assert_eq!(running_out(&points(&|t| 1e8 + 2e6 * t), 5e7, 1e13), None, "not within a day");
        assert_eq!(running_out(&points(&|t| 1e8 + 4e7 * (t % 2.0)), 5e7, 1e9), None, "up and down");
    }
}
