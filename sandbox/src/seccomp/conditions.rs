//! The conditions of one rule, as the comparisons that `seccompiler` knows.

use plab_config::seccomp::{Condition, Test};

/// The most combinations that one rule of a profile may stand for.
pub(super) const MAX_COMBINATIONS: usize = 256;

/// One comparison, as `seccompiler` knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    pub(super) arg: u8,
    pub(super) operator: Operator,
    pub(super) value: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    NotEqual,
    /// The argument, masked, is the value.
    MaskedEqual(u32),
}

/// The conditions, all of which must hold, as lists of comparisons, one of which must hold completely.
/// `Err` has the number of lists if it is too large.
pub(super) fn expand(when: &[Condition]) -> Result<Vec<Vec<Comparison>>, usize> {
    let alternatives = |condition: &Condition| -> Vec<Vec<Comparison>> {
        let arg = condition.arg;
        let one = |operator, value| Comparison { arg, operator, value };
        match &condition.test {
            Test::In { mask, values } => {
                values.iter().map(|value| vec![one(Operator::MaskedEqual(*mask), *value)]).collect()
            }
            Test::AnyBits(bits) => {
                bits.iter().map(|bit| vec![one(Operator::MaskedEqual(*bit), *bit)]).collect()
            }
            Test::NotIn(values) => vec![values.iter().map(|value| one(Operator::NotEqual, *value)).collect()],
        }
    };
    let mut lists = vec![Vec::new()];
    for condition in when {
        let alternatives = alternatives(condition);
        let combinations = lists.len().saturating_mul(alternatives.len());
        if combinations > MAX_COMBINATIONS {
            return Err(combinations);
        }
        let extend = |list: &Vec<Comparison>| {
            let list = list.clone();
            alternatives.iter().map(move |more| [list.as_slice(), more].concat()).collect::<Vec<_>>()
        };
        lists = lists.iter().flat_map(extend).collect();
    }
    Ok(lists)
}
