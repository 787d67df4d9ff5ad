//! `--loss-weights`: the factors of the terms in the total loss, by name.

use std::fmt;
use std::str::FromStr;

use patchmix::contrast::{LossWeights, Losses, Term};
use serde::{Serialize, Serializer};

use crate::parsers::not_negative;

/// The weight of every term, written as `origin-to-origin=1,mix-to-origin=0.5,...`. Terms that are not named have their
/// published weight; see [`WeightsOfTerms::with`] for other ones below.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub(crate) struct WeightsOfTerms(LossWeights);

impl WeightsOfTerms {
    pub(super) fn weights(self) -> LossWeights {
        self.0
    }

    /// These weights, changed for the terms that `text` names.
    fn with(self, text: &str) -> Result<WeightsOfTerms, String> {
        let mut weights = self.0.to_array();
        let mut named = Vec::new();
        for pair in text.split(',') {
            let (name, weight) = pair.split_once('=').ok_or(format!("{pair} is not of the form TERM=WEIGHT"))?;
            let index = Losses::TERMS.iter().position(|term| option_name(term) == name).ok_or_else(|| {
                let names: Vec<String> = Losses::TERMS.iter().map(option_name).collect();
                format!("there is no term {name}; the terms are {}", names.join(", "))
            })?;
            if named.contains(&index) {
                return Err(format!("{name} has two weights"));
            }
            named.push(index);
            weights[index] = not_negative(weight).map_err(|error| format!("{name}={weight}: {error}"))?;
        }
        match weights.iter().any(|weight| *weight > 0.0) {
            true => Ok(WeightsOfTerms(LossWeights::from(weights))),
            false => Err("all weights are 0; give a term a weight".to_owned()),
        }
    }

    /// [`WeightsOfTerms::with`] what the option says.
    pub(super) fn laid_under(self, option: &str) -> crate::Result<WeightsOfTerms> {
        Ok(self.with(option).map_err(|error| format!("--loss-weights {option}: {error}"))?)
    }

    /// The first term of local views whose weight is not that of `other`.
    pub(super) fn changed_local_term(self, other: WeightsOfTerms) -> Option<Term> {
        let weights = self.0.to_array().into_iter().zip(other.0.to_array());
        let mut terms = Losses::TERMS.into_iter().zip(weights);
        terms.find(|(term, (mine, its))| term.local && mine != its).map(|(term, _)| term)
    }

    /// The terms of a run with or without local views that have a weight.
    pub(super) fn terms(self, has_local_views: bool) -> impl Iterator<Item = Term> {
        let terms = Losses::TERMS.into_iter().zip(self.0.to_array());
        let terms = terms.map(|(term, weight)| Term { weight, ..term });
        terms.filter(move |term| term.weight > 0.0 && (has_local_views || !term.local))
    }
}

/// The name of a term as an option has it.
pub(super) fn option_name(term: &Term) -> String {
    term.name.replace('_', "-")
}

impl FromStr for WeightsOfTerms {
    type Err = String;

    fn from_str(text: &str) -> Result<WeightsOfTerms, String> {
        WeightsOfTerms::default().with(text)
    }
}

impl fmt::Display for WeightsOfTerms {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let weights = Losses::TERMS.iter().zip(self.0.to_array());
        let pairs: Vec<String> = weights.map(|(term, weight)| format!("{}={weight}", option_name(term))).collect();
        formatter.write_str(&pairs.join(","))
    }
}

impl Serialize for WeightsOfTerms {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_that_are_not_named_keep_their_published_weight() {
        let weights: WeightsOfTerms = "mix-to-mix=0,origin-to-origin=0.25".parse().unwrap();
        assert_eq!(weights.weights().to_array(), [0.25, 0.5, 0.0, 1.0, 1.0]);
        assert_eq!(weights.to_string().parse(), Ok(weights));
        assert_eq!(WeightsOfTerms::default().to_string().parse(), Ok(WeightsOfTerms::default()));
        let names = |has_local_views| weights.terms(has_local_views).map(|term| term.name).collect::<Vec<_>>();
        assert_eq!(names(false), ["origin_to_origin", "mix_to_origin"]);
        assert_eq!(names(true)[2..], ["local_to_origin", "local_mix_to_origin"]);
    }

    #[test]
    fn weights_are_laid_over_others_by_name() {
        let below: WeightsOfTerms = "origin-to-origin=0.8,mix-to-origin=0,mix-to-mix=0".parse().unwrap();
        let above = below.with("origin-to-origin=0.4,local-mix-to-origin=0").unwrap();
        assert_eq!(above.weights().to_array(), [0.4, 0.0, 0.0, 1.0, 0.0]);
        assert_eq!(below.with(&above.to_string()), Ok(above));
        assert_eq!(above.changed_local_term(below).map(|term| term.name), Some("local_mix_to_origin"));
        assert_eq!(below.with("mix-to-mix=1").unwrap().changed_local_term(below), None);
        let alone = below.with("local-to-origin=0,local-mix-to-origin=0").unwrap();
        assert!(alone.with("origin-to-origin=0").unwrap_err().contains("all weights are 0"));
    }

    #[test]
    fn wrong_weights_are_refused_by_name() {
        for (text, named) in [
            ("origin=1", "there is no term origin; the terms are origin-to-origin, mix-to-origin"),
            ("origin_to_origin=1", "origin_to_origin"),
            ("mix-to-mix", "mix-to-mix is not of the form TERM=WEIGHT"),
            ("mix-to-mix=-1", "mix-to-mix=-1: must be at least 0"),
            ("mix-to-mix=nan", "mix-to-mix=nan"),
            ("mix-to-mix=inf", "mix-to-mix=inf"),
            ("mix-to-mix=1,mix-to-mix=1", "two weights"),
            ("", "TERM=WEIGHT"),
            ("origin-to-origin=0,mix-to-origin=0,mix-to-mix=0,local-to-origin=0,local-mix-to-origin=0", "all weights"),
        ] {
            let error = text.parse::<WeightsOfTerms>().expect_err(text);
            assert!(error.contains(named), "{text}: {error}");
        }
    }
}
