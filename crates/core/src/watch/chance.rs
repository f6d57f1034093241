//! How likely a difference is by chance alone: exact tests, so that small numbers are judged rightly.

/// The natural logarithm of `n!`.
fn ln_factorial(n: u64) -> f64 {
    if n < 32 {
        return (2..=n).map(|k| (k as f64).ln()).sum();
    }
    // Stirling's series; from 32 on the error is below 1e-12.
    let x = n as f64;
    x * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI * x).ln() + 1.0 / (12.0 * x)
        - 1.0 / (360.0 * x.powi(3))
}

fn ln_choose(n: u64, k: u64) -> f64 {
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

/// Sums the terms from `from` on as long as they matter; `term` gives logarithms.
fn tail(steps: impl Iterator<Item = u64>, term: impl Fn(u64) -> f64) -> f64 {
    let (mut sum, mut last) = (0.0_f64, 0.0_f64);
    for k in steps {
        let now = term(k).exp();
        sum += now;
        if now < last && now < sum * 1e-12 {
            break;
        }
        last = now;
    }
    sum.min(1.0)
}

/// Fisher's exact test, one-sided: how likely at least `bad_after` of the bad ones fall into the `after` when before
/// and after are alike. 1 when it cannot be told.
#[must_use]
pub fn fisher(bad_before: u64, before: u64, bad_after: u64, after: u64) -> f64 {
    let (bad, all) = (bad_before + bad_after, before + after);
    if after == 0 || bad_after == 0 || bad_before > before || bad_after > after {
        return 1.0;
    }
    let whole = ln_choose(all, bad);
    let most = bad.min(after);
    tail(bad_after..=most, |k| {
        if bad - k > before {
            f64::NEG_INFINITY
        } else {
            ln_choose(after, k) + ln_choose(before, bad - k) - whole
        }
    })
}

/// How likely at least `k` of `n` are, each with chance `p`.
#[must_use]
pub fn at_least(k: u64, n: u64, p: f64) -> f64 {
    if k == 0 || p >= 1.0 {
        return 1.0;
    }
    if k > n || p <= 0.0 {
        return 0.0;
    }
    tail(k..=n, |i| ln_choose(n, i) + i as f64 * p.ln() + (n - i) as f64 * (1.0 - p).ln())
}

/// How likely at most `k` of `n` are, each with chance `p`.
#[must_use]
pub fn at_most(k: u64, n: u64, p: f64) -> f64 {
    if k >= n { 1.0 } else { at_least(n - k, n, 1.0 - p) }
}

/// The slope of a straight line through the points, and how well it fits (1: exactly).
#[must_use]
pub fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    if points.len() < 3 {
        return None;
    }
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in points {
        xx += (x - mx).powi(2);
        xy += (x - mx) * (y - my);
        yy += (y - my).powi(2);
    }
    if xx <= 0.0 || yy <= 0.0 {
        return None;
    }
    Some((xy / xx, xy * xy / (xx * yy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() <= wanted.abs() * 1e-6 + 1e-15, "{found} instead of {wanted}");
    }

    #[test]
    fn the_tests_give_the_textbook_figures() {
        // The lady tasting tea: 4 of 4 right, 1/70; 3 of 4 right, 17/70.
        near(fisher(0, 4, 4, 4), 1.0 / 70.0);
        near(fisher(1, 4, 3, 4), 17.0 / 70.0);
        near(at_least(8, 10, 0.5), 56.0 / 1024.0);
        near(at_most(2, 10, 0.5), 56.0 / 1024.0);
        near(at_least(5, 5, 0.05), 0.05_f64.powi(5));
        assert_eq!((fisher(5, 10, 0, 10), fisher(0, 0, 5, 5)), (1.0, 1.0));
        assert_eq!((at_least(0, 5, 0.1), at_least(6, 5, 0.1), at_most(5, 5, 0.1)), (1.0, 0.0, 1.0));
    }

    #[test]
    fn large_numbers_neither_overflow_nor_take_long() {
        let p = fisher(1_000, 1_000_000, 1_200, 1_000_000);
        assert!((1e-6..1e-4).contains(&p), "{p}");
        assert!(fisher(0, 1_000_000, 500, 1_000_000) < 1e-100);
        near(at_least(500_000, 1_000_000, 0.5), 0.500_399);
    }

    #[test]
    fn a_line_is_found() {
        let (slope, fit) = line(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]).unwrap();
        near(slope, 2.0);
        near(fit, 1.0);
        assert_eq!(line(&[(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]), None);
    }
}
