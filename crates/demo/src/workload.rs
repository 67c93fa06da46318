//! Which keys are read: Zipf 0.99 over the catalogue, or a recorded trace. Drawn once and walked afterwards, so
//! that drawing costs the measured loop nothing.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use rand::{Rng, SeedableRng, rngs::StdRng};
use rand_distr::{Distribution, Zipf};

/// Rows of the catalogue when no trace says otherwise.
pub(crate) const ROWS: u32 = 10_000;
/// Skew of the key popularity: YCSB's usual constant.
const SKEW: f64 = 0.99;
/// Length of the drawn sequence; long enough that its repetition does not show in a hit rate.
const DRAWN: usize = 1 << 20;

/// A sequence of row numbers (from 0) and how many distinct rows it may name.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    keys: Arc<[u32]>,
    rows: u32,
}

impl Workload {
    pub(crate) fn zipf(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let zipf = Zipf::new(f64::from(ROWS), SKEW).expect("constant parameters are valid");
        // Popularity must not follow the row number: neighbours share a database page.
        let mut order: Vec<u32> = (0..ROWS).collect();
        let mut shuffle = StdRng::seed_from_u64(0x5eed);
        for i in (1..order.len()).rev() {
            order.swap(i, shuffle.random_range(0..=i));
        }
        let keys = (0..DRAWN).map(|_| order[(zipf.sample(&mut rng) as usize - 1).min(order.len() - 1)]);
        Self { keys: keys.collect(), rows: ROWS }
    }

    /// Reads a trace: text with one key a line, or big-endian u32. Keys are numbered in order of appearance.
    pub(crate) fn trace(path: &Path) -> anyhow::Result<Self> {
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read the trace {}", path.display()))?;
        let text = std::str::from_utf8(&bytes).ok().filter(|text| !text.contains('\0'));
        let mut seen = std::collections::HashMap::new();
        let keys: Vec<u32> = match text {
            Some(text) => {
                let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
                lines.map(|line| number(&mut seen, line.as_bytes())).collect()
            }
            None if bytes.len() % 4 == 0 => bytes.chunks(4).map(|key| number(&mut seen, key)).collect(),
            None => bail!(
                "the trace {} is neither text with one key a line nor big-endian u32: its {} bytes are not a \
                 multiple of 4",
                path.display(),
                bytes.len()
            ),
        };
        if keys.is_empty() {
            bail!("the trace {} holds no key", path.display());
        }
        Ok(Self { keys: keys.into(), rows: seen.len() as u32 })
    }

    pub(crate) fn load(trace: Option<&Path>, seed: u64) -> anyhow::Result<Self> {
        match trace {
            Some(path) => Self::trace(path),
            None => Ok(Self::zipf(seed)),
        }
    }

    pub(crate) fn rows(&self) -> u32 {
        self.rows
    }

    /// An endless walk for reader `index` of `of`, each from its own place.
    pub(crate) fn walk(&self, index: usize, of: usize) -> Walk {
        Walk { next: self.keys.len() / of.max(1) * index % self.keys.len(), keys: self.keys.clone() }
    }
}

fn number<'a>(seen: &mut std::collections::HashMap<&'a [u8], u32>, key: &'a [u8]) -> u32 {
    let next = seen.len() as u32;
    *seen.entry(key).or_insert(next)
}

#[derive(Debug)]
pub(crate) struct Walk {
    keys: Arc<[u32]>,
    next: usize,
}

impl Walk {
    pub(crate) fn next(&mut self) -> u32 {
        let key = self.keys[self.next];
        self.next += 1;
        if self.next == self.keys.len() {
            self.next = 0;
        }
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_is_skewed_as_its_formula_says() {
        let workload = Workload::zipf(7);
        let mut counts = vec![0_u32; ROWS as usize];
        workload.keys.iter().for_each(|&key| counts[key as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let share = |n: usize| f64::from(counts[..n].iter().sum::<u32>()) / DRAWN as f64;
        let harmonic = |n: u32| (1..=n).map(|i| f64::from(i).powf(-SKEW)).sum::<f64>();
        for n in [1, 100, 2_500] {
            let expected = harmonic(n) / harmonic(ROWS);
            assert!((share(n as usize) - expected).abs() < 0.01, "{n}: {} not {expected}", share(n as usize));
        }
    }

    #[test]
    fn both_forms_of_a_trace_are_read_and_anything_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let text = Workload::trace(&write("text", b"a\nb\n\na\n")).unwrap();
        assert_eq!((&text.keys[..], text.rows()), (&[0, 1, 0][..], 2));
        let binary = Workload::trace(&write("binary", &[0, 0, 0, 9, 0, 0, 0, 9, 0, 0, 0, 1])).unwrap();
        assert_eq!((&binary.keys[..], binary.rows()), (&[0, 0, 1][..], 2));
        let error = Workload::trace(&write("odd", &[0, 0, 0, 9, 0])).unwrap_err().to_string();
        assert!(error.contains("not a multiple of 4"), "{error}");
        assert!(Workload::trace(&write("empty", b"")).unwrap_err().to_string().contains("no key"));
    }
}
