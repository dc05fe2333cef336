use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use qing_data::{Dataset, Feed};
use qing_graph::Tensor;

use super::Augment;
use crate::{
    TrainError,
    random::{Purpose, Random},
};

/// Batches prepared ahead of the network.
const AHEAD: usize = 3;

/// Samples and what is done to them.
#[derive(Debug, Clone)]
pub struct Source {
    /// The samples.
    pub data: Dataset,
    /// How a sample becomes an input.
    pub feed: Feed,
    /// Number of classes.
    pub classes: usize,
    /// Samples in a batch; what is left over at the end of an epoch waits for another order.
    pub batch: usize,
    /// Changes to samples.
    pub augment: Augment,
    /// How many augmented views of each sample there are, shown in turn; a new one in every epoch if `None`.
    pub views: Option<u32>,
    /// Share of a target that is spread over all classes (Szegedy et al. 2016).
    pub smoothing: f32,
    /// Parameter of the beta distribution by which pairs of samples are mixed (Zhang et al., "mixup", 2018); 0 for none.
    pub mixup: f32,
    /// What everything is drawn from.
    pub seed: u64,
    /// How many of the samples, from the first, have labels; what the network should give for the others something else says, and
    /// their targets are zeros.
    pub labelled: usize,
}

/// Samples for one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// What the network takes.
    pub input: Tensor,
    /// Shares of the classes, f32 `[samples, classes]`.
    pub targets: Tensor,
    /// The class of each sample that has a label; of mixed ones, that of the larger share.
    pub labels: Vec<Option<usize>>,
    /// The numbers of the samples in their data set.
    pub samples: Vec<usize>,
    /// Which view of each is shown.
    pub view: u32,
}

impl Source {
    /// Refuses settings and data that do not fit.
    ///
    /// # Errors
    /// Says what does not fit.
    pub fn check(&self) -> Result<(), TrainError> {
        self.augment.check()?;
        if self.batch == 0 || self.data.len() < self.batch {
            let n = self.data.len();
            return Err(TrainError::invalid(format!("batches of {} out of {n} samples", self.batch)));
        }
        if !(0.0..1.0).contains(&self.smoothing) || !(0.0..=100.0).contains(&self.mixup) {
            return Err(TrainError::invalid("label smoothing is 0 to below 1, mixup at least 0"));
        }
        if self.views == Some(0) {
            return Err(TrainError::invalid("augment.views is at least 1; without it every epoch has new views"));
        }
        for i in 0..self.labelled.min(self.data.len()) {
            match self.data.label(i) {
                Some(label) if label < self.classes => {}
                Some(label) => {
                    let (name, n) = (self.data.name(), self.classes);
                    return Err(TrainError::invalid(format!("{name}: sample {i} is of class {label} of {n} (from 0)")));
                }
                None => return Err(TrainError::invalid(format!("{}: sample {i} has no label", self.data.name()))),
            }
        }
        Ok(())
    }

    fn label(&self, i: usize) -> Option<usize> {
        if i < self.labelled { self.data.label(i) } else { None }
    }

    /// Which view of the samples an epoch shows.
    fn view(&self, epoch: u32) -> u32 {
        self.views.map_or(epoch, |n| epoch % n.max(1))
    }

    /// Batches in an epoch.
    pub fn batches(&self) -> usize {
        self.data.len() / self.batch
    }

    /// The order of the samples in an epoch.
    fn order(&self, epoch: u32) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.data.len()).collect();
        Random::new(self.seed, Purpose::Shuffle, epoch, 0).shuffle(&mut order);
        order
    }

    /// Batch `step` of an epoch.
    fn prepare(&self, order: &[usize], epoch: u32, step: usize) -> Result<Batch, TrainError> {
        let picked = &order[step * self.batch..][..self.batch];
        let view = self.view(epoch);
        let mut items = Vec::with_capacity(picked.len());
        for i in picked {
            let mut random = Random::new(self.seed, Purpose::Augment, view, *i as u32);
            let item = match (self.data.item(*i)?, &self.feed.preprocess) {
                // What is seen is changed, not what was stored: sizes are those of the network's input.
                (qing_data::Item::Image(image), Some(p)) => qing_data::Item::Image(p.view(image)?),
                (item, _) => item,
            };
            items.push(self.augment.apply(item, &mut random)?);
        }
        let mut labels: Vec<Option<usize>> = picked.iter().map(|i| self.label(*i)).collect();
        let mut input = self.feed.batch(items)?;
        let (off, on) = (self.smoothing / self.classes as f32, 1.0 - self.smoothing);
        let mut targets = vec![0.0; picked.len() * self.classes];
        for (row, label) in targets.chunks_exact_mut(self.classes).zip(&labels) {
            if let Some(label) = label {
                row.fill(off);
                row[*label] += on;
            }
        }
        if self.mixup > 0.0 {
            let mut random = Random::new(self.seed, Purpose::Mix, epoch, step as u32);
            let share = random.beta(self.mixup);
            let mut partner: Vec<usize> = (0..picked.len()).collect();
            random.shuffle(&mut partner);
            let mut values = input.to_f32s();
            mix(&mut values, &partner, share);
            input = Tensor::new(input.shape(), values)?;
            mix(&mut targets, &partner, share);
            if share < 0.5 {
                labels = partner.iter().map(|p| labels[*p]).collect();
            }
        }
        let targets = Tensor::new(&[picked.len(), self.classes], targets)?;
        Ok(Batch { input, targets, labels, samples: picked.to_vec(), view })
    }
}

/// Rows become `share` of themselves and the rest of their partners.
fn mix(values: &mut [f32], partner: &[usize], share: f32) {
    let row = values.len() / partner.len();
    let old = values.to_vec();
    for (i, p) in partner.iter().enumerate() {
        for (v, other) in values[i * row..(i + 1) * row].iter_mut().zip(&old[p * row..(p + 1) * row]) {
            *v = share * *v + (1.0 - share) * other;
        }
    }
}

/// The batches of an epoch, made ahead on a thread of their own.
#[derive(Debug)]
pub struct Loader {
    receiver: Option<Receiver<Result<Batch, TrainError>>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// The batches of `epoch` from number `first` on.
    pub fn start(source: &Arc<Source>, epoch: u32, first: usize) -> Loader {
        let (sender, receiver) = sync_channel(AHEAD);
        let source = source.clone();
        let thread = thread::spawn(move || fill(&source, epoch, first, &sender));
        Loader { receiver: Some(receiver), thread: Some(thread) }
    }
}

fn fill(source: &Source, epoch: u32, first: usize, sender: &SyncSender<Result<Batch, TrainError>>) {
    let order = source.order(epoch);
    for step in first..source.batches() {
        let batch = source.prepare(&order, epoch, step);
        let failed = batch.is_err();
        if sender.send(batch).is_err() || failed {
            return;
        }
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, TrainError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.receiver.as_ref()?.recv().ok()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        // Whoever fills finds nobody listening and ends.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use qing_data::zoo;

    use super::*;

    fn source(batch: usize) -> Source {
        let entry = zoo::find("fashion").unwrap();
        let graph = qing_formats::onnx::read_bytes(&entry.bytes(), None).unwrap();
        Source {
            data: (entry.test)().unwrap(),
            feed: Feed::for_input(&graph, 0).unwrap(),
            classes: 10,
            batch,
            augment: Augment { crop: 2, flip: 0.5, ..Augment::default() },
            views: None,
            smoothing: 0.1,
            mixup: 0.0,
            seed: 5,
            labelled: usize::MAX,
        }
    }

    fn epoch(source: Source, epoch: u32, first: usize) -> Vec<Batch> {
        Loader::start(&Arc::new(source), epoch, first).map(Result::unwrap).collect()
    }

    #[test]
    fn epochs_repeat_and_can_be_entered_anywhere() {
        let all = epoch(source(128), 0, 0);
        assert_eq!(all.len(), 7);
        assert_eq!(epoch(source(128), 0, 0), all);
        assert_eq!(epoch(source(128), 0, 5), all[5..]);
        assert_ne!(epoch(source(128), 1, 0)[0], all[0]);
        assert_eq!(all[0].input.shape(), [128, 1, 28, 28]);
        for (row, label) in all[0].targets.to_f32s().chunks(10).zip(all[0].labels.iter().flatten()) {
            assert!((row[*label] - 0.91).abs() < 1e-6 && (row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }

    #[test]
    fn a_sample_is_changed_alike_in_every_batch_size() {
        let (large, small) = (epoch(source(64), 2, 0), epoch(source(16), 2, 0));
        let rows = |b: &Batch| b.input.to_f32s();
        let joined: Vec<f32> = small[..4].iter().flat_map(rows).collect();
        assert_eq!(rows(&large[0]), joined);
    }

    #[test]
    fn views_come_again_in_other_orders() {
        let shown = |e: u32| {
            let batches = epoch(Source { views: Some(2), ..source(100) }, e, 0);
            let rows = |b: &Batch| b.input.to_f32s().chunks(784).map(<[f32]>::to_vec).collect::<Vec<_>>();
            assert!(batches.iter().all(|b| b.view == e % 2));
            let order: Vec<usize> = batches.iter().flat_map(|b| b.samples.clone()).collect();
            let rows: Vec<Vec<f32>> = batches.iter().flat_map(rows).collect();
            let mut of_sample = vec![vec![]; 1000];
            order.iter().zip(rows).for_each(|(i, row)| of_sample[*i] = row);
            (order, of_sample)
        };
        let (first, second, third) = (shown(0), shown(1), shown(2));
        assert_ne!(first.1, second.1);
        assert_eq!(first.1, third.1);
        assert_ne!(first.0, third.0);
    }

    #[test]
    fn mixed_targets_stay_shares() {
        let mixed = Source { mixup: 1.0, smoothing: 0.0, ..source(32) };
        let batch = &epoch(mixed, 0, 28)[0];
        let mut blended = 0;
        for (row, label) in batch.targets.to_f32s().chunks(10).zip(batch.labels.iter().flatten()) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
            assert!(row[*label] >= 0.5 - 1e-6);
            blended += usize::from(row[*label] < 1.0 - 1e-6);
        }
        assert!(blended > 0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(source(128).check().is_ok());
        let with = |change: fn(&mut Source)| {
            let mut source = source(8);
            change(&mut source);
            source
        };
        let bad = [
            source(0),
            source(1001),
            with(|s| s.classes = 9),
            with(|s| s.smoothing = 1.0),
            with(|s| s.views = Some(0)),
        ];
        for bad in bad {
            assert!(bad.check().is_err());
        }
    }

    #[test]
    fn a_loader_may_be_dropped_early() {
        let mut loader = Loader::start(&Arc::new(source(8)), 0, 0);
        assert!(loader.next().is_some());
        drop(loader);
    }
}
