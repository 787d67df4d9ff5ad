//! Averages over an epoch. They stay on the device and are read only where they are reported, so that no step waits.

use patchmix::contrast::{Losses, Term};
use tch::{Device, Kind, Tensor};

use crate::Result;
use crate::run::metrics::{GRADIENT_NORM, LOSS};

const FEATURE_STD: &str = "feature_std";

/// The names of the numbers measured at every step, as in `metrics.csv`: the total loss, its terms, and two more.
pub(super) fn measured_names() -> impl Iterator<Item = &'static str> {
    let terms = Losses::TERMS.into_iter().map(|term| term.name);
    std::iter::once(LOSS).chain(terms).chain([GRADIENT_NORM, FEATURE_STD])
}

/// How many numbers are measured at every step.
const COUNT: usize = Losses::TERMS.len() + 3;
/// How many counts of steps a meter keeps.
const COUNTS: usize = 5;

/// The measured numbers of a step in the order of [`measured_names`], `[COUNT]` of `Double` on the device; 0 for terms
/// that are not computed.
pub(super) fn measure(losses: &Losses<'_>, total: &Tensor, gradient_norm: &Tensor) -> Result<Tensor> {
    let none = total.f_zeros_like()?;
    let value =
        |term: Term| losses.terms().find(|(other, _)| other.name == term.name).map_or(&none, |(_, value)| value);
    let terms = Losses::TERMS.into_iter().map(value);
    let all = std::iter::once(total).chain(terms).chain([gradient_norm, &losses.feature_std]);
    let all = all.map(Tensor::f_detach).collect::<std::result::Result<Vec<_>, _>>()?;
    Ok(Tensor::f_stack(&all, 0)?.f_to_kind(Kind::Double)?)
}

/// Sums over the healthy steps of an epoch, and counts of all steps. A step is healthy if all its numbers are finite.
#[derive(Debug)]
pub(super) struct Meter {
    /// Of the measured numbers, `[COUNT]`.
    sums: Tensor,
    /// 1 for each number that was not finite at the first unhealthy step, `[COUNT]`.
    not_finite: Tensor,
    /// Healthy steps; unhealthy steps; the current and the longest row of these; the first of them, counted from 1, or
    /// 0. `[5]`.
    steps: Tensor,
}

/// A meter as numbers.
#[derive(Debug)]
pub(super) struct Reading {
    /// Averages over the healthy steps.
    averages: [f64; COUNT],
    /// All steps, healthy or not.
    pub(super) steps: u64,
    /// All steps that were skipped.
    pub(super) skipped_steps: u64,
    /// The row of skipped steps that the last step belongs to; 0 if it was healthy.
    pub(super) skipped_in_a_row: u64,
    /// The longest row of skipped steps. One that began in the epoch before counts from its beginning.
    pub(super) longest_skipped: u64,
    /// The first step that was skipped, counted from 1, and the number that was not finite.
    pub(super) first_skipped: Option<(u64, &'static str)>,
}

impl Reading {
    /// The averages with their names.
    pub(super) fn averages(&self) -> impl Iterator<Item = (&'static str, f64)> {
        measured_names().zip(self.averages)
    }

    pub(super) fn average(&self, name: &str) -> f64 {
        self.averages().find(|(other, _)| *other == name).map_or(f64::NAN, |(_, average)| average)
    }

    pub(super) fn feature_std(&self) -> f64 {
        self.average(FEATURE_STD)
    }

    /// The loss and its terms with their weights: `7.8 = 3.8 + (4.0 + 4.0)/2`.
    pub(super) fn describe_loss(&self, terms: &[Term]) -> String {
        let terms = terms.chunk_by(|one, next| one.weight == next.weight).map(|terms| {
            let values: Vec<String> = terms.iter().map(|term| format!("{:.3}", self.average(term.name))).collect();
            let sum = values.join(" + ");
            let sum = if values.len() > 1 && terms[0].weight != 1.0 { format!("({sum})") } else { sum };
            match (terms[0].weight, 1.0 / terms[0].weight) {
                (1.0, _) => sum,
                (_, divisor) if divisor.fract() == 0.0 => format!("{sum}/{divisor}"),
                (weight, _) => format!("{weight} {sum}"),
            }
        });
        format!("{:.3} = {}", self.average(LOSS), terms.collect::<Vec<_>>().join(" + "))
    }
}

impl Meter {
    pub(super) fn new(device: Device) -> Result<Meter> {
        let zeros = |count| Tensor::f_zeros([count as i64], (Kind::Double, device));
        Ok(Meter { sums: zeros(COUNT)?, not_finite: zeros(COUNT)?, steps: zeros(COUNTS)? })
    }

    /// The meter of the next epoch, in which a row of skipped steps goes on. Waits for the device, as the end of an
    /// epoch does anyway.
    pub(super) fn next_epoch(&self) -> Result<Meter> {
        let next = Meter::new(self.steps.device())?;
        let Reading { skipped_in_a_row, first_skipped: Some((first, _)), .. } = self.read()? else { return Ok(next) };
        if skipped_in_a_row == 0 {
            return Ok(next);
        }
        let row = skipped_in_a_row as f64;
        let steps = Tensor::f_from_slice(&[0.0, 0.0, row, row, first as f64])?.f_to_device(self.steps.device())?;
        Ok(Meter { not_finite: self.not_finite.shallow_clone(), steps, ..next })
    }

    /// Adds the numbers of a step (see [`measure`]), which is counted from 1 in the run. Returns 1 if the step is
    /// healthy, else 0: a scalar on the device.
    pub(super) fn add(&mut self, measured: &Tensor, step: u64) -> Result<Tensor> {
        let finite = measured.f_isfinite()?.f_to_kind(Kind::Double)?;
        let healthy = finite.f_min()?;
        self.sums = self.sums.f_add(&measured.f_nan_to_num(0.0, 0.0, 0.0)?.f_mul(&healthy)?)?;
        let one = scalar(1.0)?;
        let skipped = one.f_sub(&healthy)?;
        let count = |index| self.steps.f_select(0, index);
        let (done, all_skipped, first) = (count(0)?.f_add(&healthy)?, count(1)?.f_add(&skipped)?, count(4)?);
        let is_first = first.f_logical_not()?.f_to_kind(Kind::Double)?.f_mul(&skipped)?;
        self.not_finite = self.not_finite.f_add(&one.f_sub(&finite)?.f_mul(&is_first)?)?;
        let in_a_row = count(2)?.f_add(&one)?.f_mul(&skipped)?;
        let longest = count(3)?.f_maximum(&in_a_row)?;
        let first = first.f_add(&is_first.f_mul(&scalar(step as f64)?)?)?;
        self.steps = Tensor::f_stack(&[done, all_skipped, in_a_row, longest, first], 0)?;
        Ok(healthy)
    }

    /// Reads everything, which waits for the device.
    pub(super) fn read(&self) -> Result<Reading> {
        let numbers = |tensor: &Tensor| Vec::<f64>::try_from(tensor);
        let (sums, not_finite, steps) = (numbers(&self.sums)?, numbers(&self.not_finite)?, numbers(&self.steps)?);
        let [done, all_skipped, in_a_row, longest, first] = steps[..] else {
            return Err("a meter has five counts".into());
        };
        let mut averages = [f64::NAN; COUNT];
        for (average, sum) in averages.iter_mut().zip(sums) {
            *average = sum / done;
        }
        // Name a term rather than the total, which inherits it.
        let mut culprits = measured_names().zip(not_finite).filter(|(_, flag)| *flag > 0.0).map(|(name, _)| name);
        let total = culprits.next().unwrap_or(LOSS);
        let culprit = if total == LOSS { culprits.next().unwrap_or(LOSS) } else { total };
        Ok(Reading {
            averages,
            steps: (done + all_skipped) as u64,
            skipped_steps: all_skipped as u64,
            skipped_in_a_row: in_a_row as u64,
            longest_skipped: longest as u64,
            first_skipped: (first > 0.0).then_some((first as u64, culprit)),
        })
    }

    /// Everything in one tensor, for a checkpoint.
    pub(super) fn to_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::f_cat(&[&self.sums, &self.not_finite, &self.steps], 0)?)
    }

    /// The meter that [`Meter::to_tensor`] wrote, if it measured the same numbers.
    pub(super) fn from_tensor(tensor: &Tensor, device: Device) -> Result<Option<Meter>> {
        const LENGTHS: [i64; 3] = [COUNT as i64, COUNT as i64, COUNTS as i64];
        if tensor.size() != [LENGTHS.iter().sum::<i64>()] || tensor.f_kind()? != Kind::Double {
            return Ok(None);
        }
        let parts = tensor.f_to_device(device)?.f_split_with_sizes(LENGTHS, 0)?;
        let parts = parts.iter().map(Tensor::f_detach_copy).collect::<std::result::Result<Vec<_>, _>>()?;
        Ok(<[Tensor; 3]>::try_from(parts).ok().map(|[sums, not_finite, steps]| Meter { sums, not_finite, steps }))
    }
}

/// A number without dimensions, on the CPU. It meets tensors of a GPU without a copy and without a wait; tch's
/// functions that take a `Scalar` panic where they should fail.
fn scalar(value: f64) -> Result<Tensor> {
    Ok(Tensor::f_from_slice(&[value])?.f_squeeze()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(meter: &mut Meter, values: [f64; 8], step: u64) -> f64 {
        meter.add(&Tensor::from_slice(&values), step).unwrap().double_value(&[])
    }

    #[test]
    fn averages_are_those_of_the_healthy_steps() {
        let mut meter = Meter::new(Device::Cpu).unwrap();
        assert_eq!(add(&mut meter, [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 5.0, 6.0], 1), 1.0);
        assert_eq!(add(&mut meter, [f64::NAN, 2.0, 3.0, f64::NAN, 0.0, 0.0, f64::INFINITY, 6.0], 2), 0.0);
        assert_eq!(add(&mut meter, [3.0, 2.0, 3.0, 4.0, 0.0, 0.0, 7.0, 6.0], 3), 1.0);
        let reading = meter.read().unwrap();
        assert_eq!(reading.averages, [2.0, 2.0, 3.0, 4.0, 0.0, 0.0, 6.0, 6.0]);
        assert_eq!((reading.longest_skipped, reading.first_skipped), (1, Some((2, "mix_to_mix"))));
    }

    #[test]
    fn skipped_steps_are_counted_in_a_row_and_survive_a_checkpoint() {
        let (good, bad) = ([1.0; 8], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, f64::INFINITY, 1.0]);
        let mut meter = Meter::new(Device::Cpu).unwrap();
        for (index, values) in [good, bad, bad, good, bad].into_iter().enumerate() {
            add(&mut meter, values, 10 + index as u64);
        }
        let mut meter = Meter::from_tensor(&meter.to_tensor().unwrap(), Device::Cpu).unwrap().unwrap();
        for values in [bad, bad] {
            add(&mut meter, values, 20);
        }
        let reading = meter.read().unwrap();
        assert_eq!((reading.steps, reading.skipped_steps, reading.longest_skipped), (7, 5, 3));
        assert_eq!(reading.first_skipped, Some((11, "gradient_norm")));
        assert_eq!(reading.averages, [1.0; 8]);
        assert!(Meter::from_tensor(&Tensor::from(1.0), Device::Cpu).unwrap().is_none());
    }

    #[test]
    fn a_row_of_skipped_steps_goes_on_in_the_next_epoch() {
        let (good, bad) = ([1.0; 8], [f64::NAN, f64::NAN, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let mut meter = Meter::new(Device::Cpu).unwrap();
        for (step, values) in (1..).zip([good, bad, bad]) {
            add(&mut meter, values, step);
        }
        let mut meter = meter.next_epoch().unwrap();
        let reading = meter.read().unwrap();
        assert_eq!((reading.steps, reading.skipped_steps, reading.skipped_in_a_row), (0, 0, 2));
        add(&mut meter, bad, 4);
        let reading = meter.read().unwrap();
        assert_eq!((reading.steps, reading.skipped_steps, reading.longest_skipped), (1, 1, 3));
        assert_eq!(reading.first_skipped, Some((2, "origin_to_origin")));
        // A healthy step ends the row, and with it all that an epoch hands on.
        add(&mut meter, good, 5);
        let reading = meter.next_epoch().unwrap().read().unwrap();
        assert_eq!((reading.skipped_in_a_row, reading.longest_skipped, reading.first_skipped), (0, 0, None));
    }

    #[test]
    fn the_loss_is_described_as_the_sum_that_it_is() {
        let mut meter = Meter::new(Device::Cpu).unwrap();
        add(&mut meter, [7.5, 2.0, 3.0, 4.0, 1.25, 0.75, 5.0, 6.0], 1);
        let reading = meter.read().unwrap();
        let described = |weights: [f64; 5]| {
            let terms = Losses::TERMS.into_iter().zip(weights).map(|(term, weight)| Term { weight, ..term });
            reading.describe_loss(&terms.filter(|term| term.weight > 0.0).collect::<Vec<_>>())
        };
        assert_eq!(described([1.0, 0.5, 0.5, 0.0, 0.0]), "7.500 = 2.000 + (3.000 + 4.000)/2");
        assert_eq!(described([1.0, 0.5, 0.5, 1.0, 1.0]), "7.500 = 2.000 + (3.000 + 4.000)/2 + 1.250 + 0.750");
        assert_eq!(described([0.8, 0.0, 0.0, 0.0, 0.0]), "7.500 = 0.8 2.000");
        assert_eq!(described([0.0, 0.25, 3.0, 3.0, 0.0]), "7.500 = 3.000/4 + 3 (4.000 + 1.250)");
    }
}
