//! What evaluation may cost. A unit is one name or field that is read, one call, or what a function reads in one step, as
//! cel-go counts it: Kubernetes' limits (apiserver/pkg/apis/cel/config.go) are in these units.

use crate::eval::EvalError;

/// What one evaluation may cost.
pub const PER_CALL: u64 = 1_000_000;

/// What is left to spend; several evaluations may share it.
#[derive(Debug)]
pub struct Budget {
    units: u64,
    left: u64,
    exceeded: bool,
}

impl Budget {
    pub fn new(units: u64) -> Budget {
        Budget { units, left: units, exceeded: false }
    }

    pub fn left(&self) -> u64 {
        self.left
    }

    /// What was spent, or more than there was where that did not suffice.
    pub fn spent(&self) -> u64 {
        self.units - self.left + u64::from(self.exceeded)
    }

    pub(crate) fn spend(&mut self, units: u64) -> Result<(), EvalError> {
        match self.left.checked_sub(units) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                self.left = 0;
                self.exceeded = true;
                Err(EvalError::OverBudget)
            }
        }
    }
}
