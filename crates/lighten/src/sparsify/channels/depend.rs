//! Which channels stand or fall together.
//!
//! Every place along the channel axis of a value is an atom. Ops tie atoms: an addition those of its operands, a depthwise
//! convolution its outputs to its inputs, a concatenation lines them up. A weight is cut along its axes by the atoms of what
//! it makes and of what it reads. Sets of tied atoms are units that can only be removed whole; units that run through the
//! same values are a group, within which any may go (the dependency graph of DepGraph, Fang et al., arXiv:2301.12900, kept
//! channel by channel). What passes an op without a rule stays.

use std::collections::{BTreeMap, BTreeSet};

use qing_graph::{Graph, NodeId, ValueId};

use super::rules;

/// A place along the channel axis of a value.
pub(super) type Atom = usize;

/// The channel axis of a value and its places.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lane {
    pub axis: usize,
    pub atoms: Vec<Atom>,
}

/// What a slice of a constant does for the atom it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// It makes the channel: the row of a weight, the bias.
    Output,
    /// It reads the channel: the column of a weight.
    Input,
    /// It changes the channel on its way: normalization, slopes, factors of a depthwise convolution.
    Along,
}

/// A constant that is cut along an axis when atoms go.
#[derive(Debug, Clone)]
pub(super) struct Slice {
    pub node: NodeId,
    pub input: usize,
    pub constant: ValueId,
    pub axis: usize,
    pub atoms: Vec<Atom>,
    pub part: Part,
}

/// What else changes in a node when atoms go.
#[derive(Debug, Clone)]
pub(super) enum Edit {
    /// The number of groups of a depthwise convolution is that of its channels.
    Depthwise { node: NodeId, atoms: Vec<Atom> },
    /// Entry `at` of the constant shape of a Reshape is the number of these.
    Shape { node: NodeId, at: usize, atoms: Vec<Atom> },
    /// The constant pads of a Pad before and after an axis are the numbers of these.
    Pad { node: NodeId, axis: usize, before: Vec<Atom>, after: Vec<Atom> },
}

/// A layer with weights, and the atoms on both of its sides.
#[derive(Debug, Clone)]
pub(super) struct Weighted {
    pub node: NodeId,
    /// Of what it reads; `None` if nothing there can go.
    pub input: Option<Vec<Atom>>,
    /// Of what it makes.
    pub output: Vec<Atom>,
    /// Whether outputs are its inputs, filtered.
    pub depthwise: bool,
}

/// Units that run through the same values.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// The layers that make its channels, in order.
    pub producers: Vec<NodeId>,
    /// Its units.
    pub units: Vec<usize>,
}

/// The ties between all channels of a graph.
#[derive(Debug, Default)]
pub(super) struct Dependencies {
    parent: Vec<Atom>,
    frozen: Vec<bool>,
    /// By value.
    pub lanes: Vec<Option<Lane>>,
    pub slices: Vec<Slice>,
    pub edits: Vec<Edit>,
    pub weighted: Vec<Weighted>,
    /// Unit of each atom; `None` for those that stay.
    pub unit: Vec<Option<usize>>,
    pub units: usize,
    pub groups: Vec<Group>,
}

impl Dependencies {
    /// Ties of a float graph.
    pub(super) fn of(graph: &Graph) -> Dependencies {
        let mut d = Dependencies { lanes: vec![None; graph.values().len()], ..Dependencies::default() };
        for (i, node) in graph.nodes.iter().enumerate() {
            if rules::tie(&mut d, graph, i, node).is_none() {
                for id in node.inputs.iter().flatten() {
                    d.freeze_value(*id);
                }
            }
        }
        for id in &graph.outputs {
            d.freeze_value(*id);
        }
        d.settle_shared(graph);
        d.number(graph);
        d
    }

    /// New atoms that nothing ties yet.
    pub(super) fn fresh(&mut self, count: usize) -> Vec<Atom> {
        let first = self.parent.len();
        self.parent.extend(first..first + count);
        self.frozen.resize(first + count, false);
        (first..first + count).collect()
    }

    /// The atom that stands for all tied to this one.
    fn root(&mut self, mut atom: Atom) -> Atom {
        while self.parent[atom] != atom {
            self.parent[atom] = self.parent[self.parent[atom]];
            atom = self.parent[atom];
        }
        atom
    }

    pub(super) fn tie(&mut self, a: Atom, b: Atom) {
        let (a, b) = (self.root(a), self.root(b));
        let (low, high) = (a.min(b), a.max(b));
        self.parent[high] = low;
        self.frozen[low] |= self.frozen[high];
    }

    /// Ties two lists place by place; freezes both if they do not fit.
    pub(super) fn tie_all(&mut self, a: &[Atom], b: &[Atom]) {
        if a.len() == b.len() {
            a.iter().zip(b).for_each(|(a, b)| self.tie(*a, *b));
        } else {
            self.freeze(a);
            self.freeze(b);
        }
    }

    pub(super) fn freeze(&mut self, atoms: &[Atom]) {
        for atom in atoms {
            let root = self.root(*atom);
            self.frozen[root] = true;
        }
    }

    pub(super) fn freeze_value(&mut self, id: ValueId) {
        if let Some(lane) = self.lanes[id.0 as usize].clone() {
            self.freeze(&lane.atoms);
        }
    }

    pub(super) fn lane(&self, id: Option<ValueId>) -> Option<&Lane> {
        self.lanes[id?.0 as usize].as_ref()
    }

    pub(super) fn set_lane(&mut self, id: ValueId, axis: usize, atoms: Vec<Atom>) {
        self.lanes[id.0 as usize] = Some(Lane { axis, atoms });
    }

    /// A constant that several nodes read is cut for all of them alike, or not at all.
    fn settle_shared(&mut self, graph: &Graph) {
        let slices = self.slices.clone();
        let mut by: BTreeMap<ValueId, Vec<&Slice>> = BTreeMap::new();
        slices.iter().for_each(|s| by.entry(s.constant).or_default().push(s));
        for (id, cuts) in by {
            let places: BTreeSet<(NodeId, usize)> = cuts.iter().map(|s| (s.node, s.input)).collect();
            let reads = graph.nodes.iter().flat_map(|n| n.inputs.iter().flatten()).filter(|i| **i == id).count();
            let mut axes: BTreeMap<usize, Vec<&Slice>> = BTreeMap::new();
            cuts.iter().for_each(|s| axes.entry(s.axis).or_default().push(s));
            for (_, same) in axes {
                if same.len() != reads || places.len() != reads || graph.outputs.contains(&id) {
                    same.iter().for_each(|s| self.freeze(&s.atoms));
                }
                for pair in same.windows(2) {
                    self.tie_all(&pair[0].atoms, &pair[1].atoms);
                }
            }
        }
    }

    /// Numbers units and groups: those that some layer makes and nothing holds.
    fn number(&mut self, graph: &Graph) {
        let atoms = self.parent.len();
        let roots: Vec<Atom> = (0..atoms).map(|a| self.root(a)).collect();
        let mut producers: BTreeMap<Atom, BTreeSet<NodeId>> = BTreeMap::new();
        for slice in self.slices.iter().filter(|s| s.part == Part::Output) {
            for atom in &slice.atoms {
                producers.entry(roots[*atom]).or_default().insert(slice.node);
            }
        }
        let mut values: BTreeMap<Atom, BTreeSet<ValueId>> = BTreeMap::new();
        for (id, _) in graph.values() {
            for atom in self.lanes[id.0 as usize].iter().flat_map(|lane| &lane.atoms) {
                values.entry(roots[*atom]).or_default().insert(id);
            }
        }
        let mut unit_of: BTreeMap<Atom, usize> = BTreeMap::new();
        let mut groups: BTreeMap<&BTreeSet<ValueId>, Group> = BTreeMap::new();
        for (root, through) in &values {
            let Some(made) = producers.get(root).filter(|_| !self.frozen[*root]) else { continue };
            let unit = unit_of.len();
            unit_of.insert(*root, unit);
            let group = groups.entry(through).or_insert_with(|| Group { producers: vec![], units: vec![] });
            group.units.push(unit);
            for node in made {
                if !group.producers.contains(node) {
                    group.producers.push(*node);
                }
            }
        }
        let mut groups: Vec<Group> = groups.into_values().collect();
        groups.iter_mut().for_each(|g| g.producers.sort_unstable());
        groups.sort_by_key(|g| (g.producers[0], g.units[0]));
        self.units = unit_of.len();
        self.unit = roots.iter().map(|root| unit_of.get(root).copied()).collect();
        self.groups = groups;
    }

    /// How many of these atoms are left when units are gone.
    pub(super) fn left(&self, atoms: &[Atom], gone: &[bool]) -> usize {
        atoms.iter().filter(|a| self.stays(**a, gone)).count()
    }

    /// Whether an atom is left.
    pub(super) fn stays(&self, atom: Atom, gone: &[bool]) -> bool {
        self.unit[atom].is_none_or(|unit| !gone[unit])
    }
}
