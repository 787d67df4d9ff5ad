//! What is known of an epoch so far. It is kept on the device and read only where it is reported, so that no step
//! waits.

use tch::{Device, Kind, Tensor};

use super::Result;
use super::tensors::{copied, scalar};

/// What is measured at every step.
pub(crate) const MEASURED: [&str; 8] = [
    "total loss",
    "origin-to-origin loss",
    "mix-to-origin loss",
    "mix-to-mix loss",
    "local-to-origin loss",
    "local-mix-to-origin loss",
    "gradient norm",
    "feature standard deviation",
];
const COUNT: i64 = MEASURED.len() as i64;
/// How many counts of steps a meter keeps.
const COUNTS: i64 = 5;

/// Sums over the healthy steps of an epoch, and what is known of the others. A step is healthy if everything measured
/// is finite.
#[derive(Debug)]
pub(crate) struct Meter {
    /// Of [`MEASURED`], `[8]`.
    sums: Tensor,
    /// 1 for what of [`MEASURED`] was not finite at the first step that was not healthy, `[8]`.
    not_finite: Tensor,
    /// Healthy steps; other steps; of these, how many in a row up to now, the most in a row, and the first, counted
    /// from 1, or 0. `[5]`.
    steps: Tensor,
}

/// A meter as numbers.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Means over the healthy steps, of [`MEASURED`].
    pub(crate) means: [f64; 8],
    /// All steps, healthy or not.
    pub(crate) steps: u64,
    /// All steps that were skipped.
    pub(crate) skipped_steps: u64,
    /// The most of them in a row.
    pub(crate) skipped: u64,
    /// The first step that was skipped, counted from 1, and what was not finite at it.
    pub(crate) first_skipped: Option<(u64, &'static str)>,
}

impl Meter {
    pub(crate) fn new(device: Device) -> Result<Meter> {
        let zeros = |count| Tensor::f_zeros([count], (Kind::Double, device));
        Ok(Meter { sums: zeros(COUNT)?, not_finite: zeros(COUNT)?, steps: zeros(COUNTS)? })
    }

    /// Adds a step, counted from 1 in the run, of which `measured`, `[8]` of `Double`, was measured. Returns 1 if it is
    /// healthy, else 0: a scalar on the device.
    pub(crate) fn add(&mut self, measured: &Tensor, step: u64) -> Result<Tensor> {
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
        let most = count(3)?.f_maximum(&in_a_row)?;
        let first = first.f_add(&is_first.f_mul(&scalar(step as f64)?)?)?;
        self.steps = Tensor::f_stack(&[done, all_skipped, in_a_row, most, first], 0)?;
        Ok(healthy)
    }

    /// Reads everything, which waits for the device.
    pub(crate) fn read(&self) -> Result<Reading> {
        let numbers = |tensor: &Tensor| Vec::<f64>::try_from(tensor);
        let (sums, not_finite, steps) = (numbers(&self.sums)?, numbers(&self.not_finite)?, numbers(&self.steps)?);
        let [done, all_skipped, _, most, first] = steps[..] else { return Err("a meter has five counts".into()) };
        let mut means = [f64::NAN; 8];
        for (mean, sum) in means.iter_mut().zip(sums) {
            *mean = sum / done;
        }
        // The total is not finite because a part of it is not.
        let what =
            (1..MEASURED.len()).find(|&index| not_finite.get(index).is_some_and(|&flag| flag > 0.0)).unwrap_or(0);
        let first_skipped = (first > 0.0).then_some((first as u64, MEASURED[what]));
        let steps = (done + all_skipped) as u64;
        Ok(Reading { means, steps, skipped_steps: all_skipped as u64, skipped: most as u64, first_skipped })
    }

    /// Everything in one tensor, for a checkpoint.
    pub(crate) fn to_tensor(&self) -> Result<Tensor> {
        Ok(Tensor::f_cat(&[&self.sums, &self.not_finite, &self.steps], 0)?)
    }

    /// The meter that [`Meter::to_tensor`] wrote, if it is one.
    pub(crate) fn from_tensor(tensor: &Tensor, device: Device) -> Result<Option<Meter>> {
        if tensor.size() != [2 * COUNT + COUNTS] || tensor.f_kind()? != Kind::Double {
            return Ok(None);
        }
        let part = |first, length| copied(&tensor.f_narrow(0, first, length)?.f_to_device(device)?);
        let (sums, not_finite, steps) = (part(0, COUNT)?, part(COUNT, COUNT)?, part(2 * COUNT, COUNTS)?);
        Ok(Some(Meter { sums, not_finite, steps }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(meter: &mut Meter, values: [f64; 8], step: u64) -> f64 {
        meter.add(&Tensor::from_slice(&values), step).unwrap().double_value(&[])
    }

    #[test]
    fn means_are_those_of_the_healthy_steps() {
        let mut meter = Meter::new(Device::Cpu).unwrap();
        assert_eq!(add(&mut meter, [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 5.0, 6.0], 1), 1.0);
        assert_eq!(add(&mut meter, [f64::NAN, 2.0, 3.0, f64::NAN, 0.0, 0.0, f64::INFINITY, 6.0], 2), 0.0);
        assert_eq!(add(&mut meter, [3.0, 2.0, 3.0, 4.0, 0.0, 0.0, 7.0, 6.0], 3), 1.0);
        let reading = meter.read().unwrap();
        assert_eq!(reading.means, [2.0, 2.0, 3.0, 4.0, 0.0, 0.0, 6.0, 6.0]);
        assert_eq!((reading.skipped, reading.first_skipped), (1, Some((2, "mix-to-mix loss"))));
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
        assert_eq!((reading.steps, reading.skipped_steps, reading.skipped), (7, 5, 3));
        assert_eq!((reading.skipped, reading.first_skipped), (3, Some((11, "gradient norm"))));
        assert_eq!(reading.means, [1.0; 8]);
        assert!(Meter::from_tensor(&Tensor::from(1.0), Device::Cpu).unwrap().is_none());
    }
}
