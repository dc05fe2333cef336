//! Which units go: those that matter least for what they cost, over the whole network, until it costs little enough.

use qing_graph::{Graph, NodeId};

use super::{
    depend::{Dependencies, Group, Weighted},
    remove::silence,
};
use crate::LightenError;

/// What is counted while units go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// Multiply–accumulates of layers with weights.
    Macs,
    /// Their weights.
    Parameters,
}

/// What the layers of a graph cost, as their channels go.
#[derive(Debug)]
pub(super) struct Ledger<'a> {
    d: &'a Dependencies,
    layers: Vec<(&'a Weighted, f64)>,
    /// What no layer with weights costs.
    rest: f64,
}

impl<'a> Ledger<'a> {
    /// `costs` by node.
    pub(super) fn new(d: &'a Dependencies, costs: &[f64]) -> Ledger<'a> {
        let layers: Vec<(&Weighted, f64)> = d.weighted.iter().map(|w| (w, costs[w.node])).collect();
        let rest = costs.iter().sum::<f64>() - layers.iter().map(|l| l.1).sum::<f64>();
        Ledger { d, layers, rest: rest.max(0.0) }
    }

    /// The cost without the units that are gone.
    pub(super) fn cost(&self, gone: &[bool]) -> f64 {
        let share = |atoms: &[usize]| self.d.left(atoms, gone) as f64 / atoms.len().max(1) as f64;
        let of = |(layer, cost): &(&Weighted, f64)| {
            let inputs = layer.input.as_deref().filter(|_| !layer.depthwise).map_or(1.0, share);
            cost * inputs * share(&layer.output)
        };
        self.layers.iter().map(of).sum::<f64>() + self.rest
    }
}

/// How units are chosen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// Channels of a group come in multiples of this, where they did before.
    pub multiple: usize,
    /// The least share of a group's channels that stays.
    pub least: f64,
    /// Whether a branch may go entirely.
    pub whole: bool,
}

/// Marks units as gone, block by block, until `limit` is kept. A block is as many units of a group as lead to the next multiple;
/// the one that goes has the least importance for what it saves.
///
/// # Errors
/// If the limit cannot be reached; says how near one gets.
pub(super) fn select(
    graph: &Graph,
    d: &Dependencies,
    ledger: &Ledger<'_>,
    importance: &[f64],
    limit: f64,
    rules: Rules,
) -> Result<Vec<bool>, LightenError> {
    let mut gone = vec![false; d.units];
    let mut order: Vec<Vec<usize>> = d.groups.iter().map(|g| g.units.clone()).collect();
    for units in &mut order {
        units.sort_by(|a, b| importance[*a].total_cmp(&importance[*b]).then(a.cmp(b)));
    }
    let mut first = vec![0; d.groups.len()];
    let mut cost = ledger.cost(&gone);
    while cost > limit {
        let mut best: Option<(f64, usize, usize, f64)> = None;
        for (g, group) in d.groups.iter().enumerate() {
            let Some(block) = block(graph, d, group, first[g], &gone, &order[g], rules) else { continue };
            let units = &order[g][first[g]..first[g] + block];
            let loss: f64 = units.iter().map(|u| importance[*u]).sum();
            units.iter().for_each(|u| gone[*u] = true);
            let saved = cost - ledger.cost(&gone);
            units.iter().for_each(|u| gone[*u] = false);
            if saved > 0.0 && loss.is_finite() && best.is_none_or(|b| loss / saved < b.0) {
                best = Some((loss / saved, g, block, saved));
            }
        }
        let Some((_, g, block, saved)) = best else {
            let share = 100.0 * cost / ledger.cost(&vec![false; d.units]).max(f64::MIN_POSITIVE);
            return Err(LightenError::Option(format!(
                "taking channels out reaches {share:.1} % of the cost at most, {:.1} % are wanted; allow other multiples, a \
                 smaller least share of channels, or a larger budget",
                share * limit / cost
            )));
        };
        order[g][first[g]..first[g] + block].iter().for_each(|u| gone[*u] = true);
        first[g] += block;
        cost -= saved;
    }
    Ok(gone)
}

/// How many units of a group go next; `None` if none can.
fn block(
    graph: &Graph,
    d: &Dependencies,
    group: &Group,
    first: usize,
    gone: &[bool],
    order: &[usize],
    rules: Rules,
) -> Option<usize> {
    let left = order.len() - first;
    let block = match left % rules.multiple {
        0 => rules.multiple.min(left),
        // A group that never came in multiples goes to the next.
        odd => odd,
    };
    let after = left - block;
    let whole = after == 0 && block > 0;
    if block == 0 || (after as f64) < rules.least * order.len() as f64 || (whole && !rules.whole) {
        return None;
    }
    if whole {
        let mut without = gone.to_vec();
        group.units.iter().for_each(|u| without[*u] = true);
        silence(graph, d, &without).ok()?;
    }
    Some(block)
}

/// What the layers cost, by node.
pub(super) fn costs(graph: &Graph, macs: &[u64], count: Count) -> Vec<f64> {
    match count {
        Count::Macs => macs.iter().map(|m| *m as f64).collect(),
        Count::Parameters => (0..graph.nodes.len()).map(|i| parameters(graph, i)).collect(),
    }
}

fn parameters(graph: &Graph, node: NodeId) -> f64 {
    let node = &graph.nodes[node];
    let float = |id: &&qing_graph::ValueId| graph.ty(**id).element.is_float();
    node.inputs.iter().flatten().filter(float).filter_map(|id| graph.constant(*id)).map(|t| t.len() as f64).sum()
}
