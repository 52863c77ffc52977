//! What evaluation may cost. A unit is roughly one step, or one byte-block of text or one element that a function reads;
//! Kubernetes' limits (apiserver/pkg/apis/cel/config.go) are in units of that size.

use crate::eval::EvalError;

/// What one evaluation may cost.
pub const PER_CALL: u64 = 1_000_000;

/// What is left to spend; several evaluations may share it.
#[derive(Debug)]
pub struct Budget {
    left: u64,
}

impl Budget {
    pub fn new(units: u64) -> Budget {
        Budget { left: units }
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    pub(crate) fn spend(&mut self, units: u64) -> Result<(), EvalError> {
        match self.left.checked_sub(units) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                Err(EvalError::OverBudget)
            }
        }
    }

    /// For a function that reads `bytes` of text.
    pub(crate) fn spend_text(&mut self, bytes: usize) -> Result<(), EvalError> {
        self.spend(bytes as u64 / 10 + 1)
    }
}
