//! What stands for the tables on architectures that count bits as fast: none are ever made.

use super::strip::Target;
use super::{BitConv, Place};
use crate::cpu::Isa;
use crate::geometry::ConvGeometry;
use crate::pool::Pool;

pub(super) const LEAST_USES: usize = 0;

#[derive(Debug, Clone)]
pub(super) enum Tables {}

impl Tables {
    pub(super) fn pack(_: Isa, _: &ConvGeometry, _: &[i8], _: usize) -> Option<Tables> {
        None
    }

    pub(super) fn bytes(&self) -> usize {
        match *self {}
    }

    pub(super) fn signs(&self) -> bool {
        match *self {}
    }

    pub(super) fn scratch_bytes(&self, _: &ConvGeometry, _: usize, _: usize) -> usize {
        match *self {}
    }

    pub(super) fn sweep<'t>(
        &self,
        _: &BitConv,
        _: &Place<'_>,
        _: &mut [u8],
        _: &Pool,
        _: &(dyn Fn(usize, usize) -> Target<'t> + Sync),
    ) {
        match *self {}
    }
}
