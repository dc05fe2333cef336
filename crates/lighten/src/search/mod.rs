//! The lightest network within a budget: widths by layer, chosen by what each costs and what each disturbs.
//!
//! Every layer is measured alone at every pair of widths ([`sensitivity`]), every form is counted by [`CostModel`]s (bytes,
//! bit operations, time on this machine, cycles of a chip), and an exact knapsack ([`knapsack`]) makes the choice (as HAWQ-V3, Yao et
//! al., arXiv:2011.10680, with its integer program). What it promises is then measured on the network that was made; where it
//! promised too much, the budget is tightened and the choice is made again.

mod budget;
mod cost;
pub mod knapsack;
mod mixed;
mod pareto;
mod sensitivity;

pub use budget::{Budget, Limit, Measure, parse_budgets};
pub(crate) use cost::measured_latency;
pub use cost::{BitOperations, CostModel, Costs, Forms, Latency, Size};
pub use mixed::{Judge, Kept, Mixed, MixedOptions, Selected};
pub(crate) use mixed::{Request, mixed};
pub use pareto::{Point, front};
pub use sensitivity::{Sensitivity, sensitivity};
