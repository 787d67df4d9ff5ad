//! A copy of a checkpoint's tensors that training no longer changes.

use std::collections::HashMap;

use patchmix::checkpoint::Checkpoint;
use tch::{Device, Kind, TchError, Tensor};

/// The tensors of a checkpoint, copied on their own device into one tensor per kind.
///
/// One large tensor crosses from a GPU to the host in one piece. Tensor by tensor, each copy would wait for the steps
/// that training has queued meanwhile.
pub(super) struct Snapshot {
    parts: Vec<Part>,
    metadata: HashMap<String, String>,
}

/// All tensors of one kind.
struct Part {
    flat: Tensor,
    /// Names and shapes, in the order of their elements in `flat`.
    tensors: Vec<(String, Vec<i64>)>,
}

impl Snapshot {
    /// Copies the tensors. Nothing waits for a GPU.
    pub(super) fn take(checkpoint: Checkpoint) -> Result<Snapshot, TchError> {
        let _no_grad = tch::no_grad_guard();
        let mut kinds: Vec<(Kind, Vec<(String, Tensor)>)> = Vec::new();
        for (name, tensor) in checkpoint.tensors {
            let kind = tensor.f_kind()?;
            match kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, tensors)) => tensors.push((name, tensor)),
                None => kinds.push((kind, vec![(name, tensor)])),
            }
        }
        let parts = kinds.into_iter().map(|(_, tensors)| {
            let rows = tensors.iter().map(|(_, tensor)| tensor.f_reshape([-1])).collect::<Result<Vec<_>, _>>()?;
            let tensors = tensors.into_iter().map(|(name, tensor)| (name, tensor.size())).collect();
            Ok(Part { flat: Tensor::f_cat(&rows, 0)?, tensors })
        });
        Ok(Snapshot { parts: parts.collect::<Result<_, TchError>>()?, metadata: checkpoint.metadata })
    }

    /// The copies on the CPU. This waits for a GPU.
    pub(super) fn into_checkpoint(self) -> Result<Checkpoint, TchError> {
        let mut checkpoint = Checkpoint { metadata: self.metadata, ..Checkpoint::default() };
        for Part { flat, tensors } in self.parts {
            let flat = flat.f_to_device(Device::Cpu)?;
            let mut start = 0;
            for (name, size) in tensors {
                let length = size.iter().product();
                checkpoint.tensors.insert(name, flat.f_narrow(0, start, length)?.f_reshape(&size)?);
                start += length;
            }
        }
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_holds_every_bit_of_the_moment_it_was_taken() {
        tch::manual_seed(3);
        let weight = Tensor::rand([3, 4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let mut moved = Tensor::rand([5], (Kind::Float, Device::Cpu));
        let shared = |tensor: &Tensor| tensor.shallow_clone();
        let mut checkpoint = Checkpoint::default();
        checkpoint.insert_all("part", [("weight".to_owned(), shared(&weight)), ("moved".to_owned(), shared(&moved))]);
        checkpoint.insert_all("part", [("transposed".to_owned(), weight.detach().transpose(0, 1))]);
        checkpoint.insert_all("part", [("none".to_owned(), Tensor::zeros([0, 2], (Kind::Float, Device::Cpu)))]);
        checkpoint.insert_all("count", [("steps".to_owned(), Tensor::from(7.5))]);
        checkpoint.metadata.insert("epoch".to_owned(), "3".to_owned());
        let before = checkpoint.to_bytes().unwrap();
        let snapshot = Snapshot::take(checkpoint).unwrap();
        moved += 1.0;
        tch::no_grad(|| drop(weight.shallow_clone().fill_(0.0)));
        assert_eq!(snapshot.into_checkpoint().unwrap().to_bytes().unwrap(), before);
    }
}
