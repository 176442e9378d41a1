//! The record of one workload: when each step ended. Rates, throughput over time and latencies are all made of it.

use std::time::{Duration, Instant};

use crate::BenchError;
use crate::progress::Progress;
use crate::report::Latency;

/// Points of a curve of throughput over time.
const CURVE_POINTS: usize = 60;

/// Steps that follow one another in one thread, or of several threads together.
///
/// A step's time is from the end of the one before it: one reading of the clock a step (some 30 ns).
#[derive(Debug)]
pub(crate) struct Trace {
    progress: Progress,
    started: Instant,
    last: Instant,
    steps: Vec<Step>,
    elapsed: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    /// Since the start.
    end: Duration,
    took: Duration,
    amount: u64,
}

impl Trace {
    /// Begins now. `capacity`: number of steps, so that none of them pays for memory.
    pub(crate) fn begin(progress: &Progress, capacity: usize) -> Trace {
        let steps = Vec::with_capacity(capacity);
        let started = Instant::now();
        Trace { progress: progress.clone(), started, last: started, steps, elapsed: Duration::ZERO }
    }

    /// The step that began when the one before ended is over.
    pub(crate) fn step(&mut self, amount: u64) -> Result<(), BenchError> {
        let now = Instant::now();
        self.steps.push(Step { end: now - self.started, took: now - self.last, amount });
        self.last = now;
        self.progress.step(amount)
    }

    /// Ends now; what came after the last step counts.
    pub(crate) fn end(mut self) -> Trace {
        self.elapsed = self.started.elapsed();
        self
    }

    /// The same steps with more time at their end.
    pub(crate) fn extended(&self, by: Duration) -> Trace {
        Trace { progress: self.progress.clone(), steps: self.steps.clone(), elapsed: self.elapsed + by, ..*self }
    }

    /// Joins what threads did that began together.
    pub(crate) fn join(traces: Vec<Trace>) -> Option<Trace> {
        let elapsed = traces.iter().map(|trace| trace.elapsed).max()?;
        let mut traces = traces.into_iter();
        let mut all = traces.next()?;
        for trace in traces {
            all.steps.extend(trace.steps);
        }
        all.steps.sort_by_key(|step| step.end);
        all.elapsed = elapsed;
        Some(all)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// Amount a second.
    pub(crate) fn rate(&self) -> f64 {
        let amount: u64 = self.steps.iter().map(|step| step.amount).sum();
        amount as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// Seconds since the start and amount a second then, in slices of equal length.
    pub(crate) fn curve(&self) -> Vec<(f64, f64)> {
        let slices = CURVE_POINTS.min(self.steps.len() / 4);
        if slices < 2 {
            return Vec::new();
        }
        let width = self.elapsed.as_secs_f64() / slices as f64;
        let mut sums = vec![0.0; slices];
        for step in &self.steps {
            // A step that is longer than a slice is spread over all that it covers.
            let (from, to) = (step.end.saturating_sub(step.took).as_secs_f64(), step.end.as_secs_f64());
            let first = ((from / width) as usize).min(slices - 1);
            let last = ((to / width) as usize).min(slices - 1);
            for (slice, sum) in sums.iter_mut().enumerate().take(last + 1).skip(first) {
                let inside = (to.min((slice + 1) as f64 * width) - from.max(slice as f64 * width)).max(0.0);
                let share = if to > from && first != last { inside / (to - from) } else { 1.0 };
                *sum += step.amount as f64 * share;
            }
        }
        sums.into_iter().enumerate().map(|(slice, sum)| ((slice as f64 + 0.5) * width, sum / width)).collect()
    }

    /// Times of single steps.
    pub(crate) fn latency(&self) -> Option<Latency> {
        let mut times: Vec<Duration> = self.steps.iter().map(|step| step.took).collect();
        times.sort_unstable();
        let at = |share: f64| {
            let index = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len()) - 1;
            times[index].as_secs_f64() * 1e6
        };
        (!times.is_empty()).then(|| Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            longest: at(1.0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(steps: &[(u64, u64, u64)]) -> Trace {
        let mut made = Trace::begin(&Progress::default(), 0);
        made.steps = steps
            .iter()
            .map(|(end, took, amount)| Step {
                end: Duration::from_millis(*end),
                took: Duration::from_millis(*took),
                amount: *amount,
            })
            .collect();
        made.elapsed = made.steps.iter().map(|step| step.end).max().unwrap_or_default();
        made
    }

    #[test]
    fn rates_percentiles_and_curves_come_from_the_same_steps() {
        let steps: Vec<(u64, u64, u64)> = (1..=100).map(|number| (number * 10, 10, 5)).collect();
        let made = trace(&steps);
        assert!((made.rate() - 500.0).abs() < 1e-6);
        let latency = made.latency().expect("steps");
        assert!((latency.p50 - 10_000.0).abs() < 1.0 && (latency.longest - 10_000.0).abs() < 1.0);
        let curve = made.curve();
        assert_eq!(curve.len(), 25);
        let total: f64 = curve.iter().map(|(_, rate)| rate * 1.0 / 25.0).sum();
        assert!((total - 500.0).abs() < 1e-6, "nothing is lost between slices: {total}");
    }

    #[test]
    fn threads_share_one_clock() {
        let joined = Trace::join(vec![trace(&[(10, 10, 1), (40, 30, 1)]), trace(&[(20, 20, 1)])]).expect("traces");
        assert_eq!(joined.elapsed, Duration::from_millis(40));
        assert!((joined.rate() - 75.0).abs() < 1e-6);
        assert!(joined.steps.is_sorted_by_key(|step| step.end));
    }

    #[test]
    fn a_long_step_is_spread_over_its_time() {
        let made = trace(&[(250, 250, 10), (500, 250, 10), (750, 250, 10), (1000, 250, 10)]);
        let mut long = trace(&[(1000, 1000, 40)]);
        long.steps.extend([Step { end: Duration::from_secs(1), took: Duration::ZERO, amount: 0 }; 7]);
        assert_eq!(long.curve().len(), 2);
        for (_, rate) in long.curve() {
            assert!((rate - made.rate()).abs() < 1e-6);
        }
    }
}
