//! A plain implementation of the losses: whole batches, dense targets, crop by crop.

use patchmix::MixPlan;
use patchmix::contrast::{KeyNetwork, LossConfig, Losses, Model};
use patchmix::random::seed_for;
use patchmix::vit::VitConfig;
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::scene::{BATCH, Crop, DOUBLE, HEADS, Learner, Tensors, Views, running_statistics, set};

/// With this seed, other computations drop the paths that [`plain_losses`] drops.
pub(crate) const SEED: i64 = 7;

/// `A[i, j]`: the share of mixed image `i` that comes from image `j`, counted patch by patch.
pub(crate) fn mix_to_origin_target(plan: &MixPlan) -> Tensor {
    let mut target = vec![0.0; (BATCH * BATCH) as usize];
    let patches = plan.patches() as usize;
    for image in 0..BATCH {
        // A plan per image has the groups of one image behind those of another.
        let first = if plan.group_of_position().len() > patches { image as usize * patches } else { 0 };
        for group in &plan.group_of_position()[first..][..patches] {
            let source = (image + group * plan.mix_stride()).rem_euclid(BATCH);
            target[(image * BATCH + source) as usize] += 1.0 / plan.patches() as f64;
        }
    }
    Tensor::from_slice(&target).view([BATCH, BATCH])
}

fn normalize(x: &Tensor) -> Tensor {
    x / x.square().sum_dim_intlist(-1, true, None::<Kind>).sqrt()
}

/// `-(1/B) Σ_i Σ_j target[i, j] log softmax(q̂ k̂ᵀ / τ)[i, j]` with the smoothed target, or without negatives
/// `(1/B) Σ_i (2 - 2 Σ_j target[i, j] q̂_i k̂_jᵀ)`.
fn compare(q: &Tensor, k: &Tensor, target: &Tensor, smoothing: f64, config: &LossConfig) -> Tensor {
    let cosine = normalize(q).matmul(&normalize(k).tr());
    if !config.negatives {
        return 2.0 - (target * cosine).sum(Kind::Double) * 2.0 / q.size()[0] as f64;
    }
    let target = target * (1.0 - smoothing) + smoothing / k.size()[0] as f64;
    let logits = cosine / config.temperature;
    -(target * logits.log_softmax(-1, Kind::Double)).sum(Kind::Double) / q.size()[0] as f64
}

/// A model with the weights of the momentum network, which drops no paths. Its predictor is not used.
pub(crate) fn momentum_model(learner: &Learner) -> Option<(VarStore, Model)> {
    let momentum = learner.momentum.as_ref()?;
    let mut store = VarStore::new(Device::Cpu);
    let vit = VitConfig { drop_path: 0.0, ..learner.model.network.encoder.config().clone() };
    let model = Model::new(&store.root(), &vit, &HEADS).unwrap();
    store.double();
    let values: Tensors = momentum.store().variables().into_iter().collect();
    set(&store.variables().into_iter().filter(|(name, _)| values.contains_key(name)).collect(), &values);
    Some((store, model))
}

/// Passes through the encoder in parts, which keep their graph. The `n`-th part of the queries, counted from 1, has the
/// seed `seed_for(drawn, [n])`. Whole batches and keys draw from where the generator stands.
struct Passes<'a> {
    model: &'a Model,
    micro_batch: Option<i64>,
    drawn: u64,
    parts: u64,
}

impl Passes<'_> {
    fn new(model: &Model, micro_batch: Option<i64>) -> Passes<'_> {
        let draw = |_| Tensor::randint(i64::MAX, [], (Kind::Int64, Device::Cpu)).int64_value(&[]);
        Passes { model, micro_batch, drawn: micro_batch.map_or(0, draw) as u64, parts: 0 }
    }

    fn split(&self, images: &Tensor) -> Vec<Tensor> {
        let rows = images.size()[0];
        images.split(self.micro_batch.unwrap_or(rows).min(rows), 0)
    }

    fn queries(&mut self, images: &Tensor) -> Tensor {
        let split = self.split(images);
        let part = |images: Tensor| {
            self.parts += 1;
            if self.micro_batch.is_some() {
                tch::manual_seed(seed_for(self.drawn, &[self.parts]));
            }
            self.model.network.encoder.forward(&images, true).unwrap()
        };
        Tensor::cat(&split.into_iter().map(part).collect::<Vec<_>>(), 0)
    }

    fn keys(&self, model: &Model, images: &Tensor) -> Tensor {
        let KeyNetwork { encoder, projector } = &model.network;
        let part = |images: &Tensor| encoder.forward(images, true).unwrap();
        let features = Tensor::cat(&self.split(images).iter().map(part).collect::<Vec<_>>(), 0);
        projector.forward(&features, true).unwrap().detach()
    }
}

/// The total and its terms over the images of all ranks; `views` has one entry per rank. Terms of weight 0 are left
/// out. Paths are dropped as by one process seeded with [`SEED`].
pub(crate) fn plain_losses(learner: &Learner, views: &[Views], config: &LossConfig) -> Tensors {
    let model = &learner.model;
    let momentum = momentum_model(learner);
    let block = config.mix_patch_size.unwrap_or(model.network.encoder.config().patch_size);
    let mixed = |(images, plan): &Crop| plan.mix_images(images, block).unwrap();
    let plain = |(images, _): &Crop| images.shallow_clone();
    // One view of the images of all ranks.
    let all = |part: &dyn Fn(&Views) -> Tensor| Tensor::cat(&views.iter().map(part).collect::<Vec<_>>(), 0);
    let target = |part: &dyn Fn(&Views) -> Tensor| Tensor::block_diag(&views.iter().map(part).collect::<Vec<_>>());
    let project = |features: &Tensor| model.network.projector.forward(features, true).unwrap();
    let predict = |projection: &Tensor| model.predictor.forward(projection, true).unwrap();

    let (crops, weights, both) = (views[0].local.len(), &config.weights, config.symmetric);
    let [oo, mo, mm, lo, lmo] = weights.to_array().map(|weight| weight > 0.0);
    let local = crops > 0 && (lo || lmo);
    // View 1, view 2, mixed view 1, mixed view 2.
    let is_query = [oo, oo && both, (mo || mm) && both, mo || mm];
    let is_key = [mo || oo && both || local, oo || mo && both || local, mm, mm && both];
    let images = [
        all(&|views| plain(&views.global[0])),
        all(&|views| plain(&views.global[1])),
        all(&|views| mixed(&views.global[0])),
        all(&|views| mixed(&views.global[1])),
    ];
    tch::manual_seed(SEED);
    let mut passes = Passes::new(model, config.micro_batch);
    let features = [0, 1, 2, 3].map(|side| is_query[side].then(|| passes.queries(&images[side])));
    let mut projections: [Option<Tensor>; 4] = Default::default();
    // Mixed queries come after the keys, unless they are keys themselves.
    for side in (0..4).filter(|&side| side < 2 || momentum.is_none() && is_key[side]) {
        projections[side] = features[side].as_ref().map(project);
    }
    let key_model = momentum.as_ref().map_or(model, |(_, copy)| copy);
    let keys = [0, 1, 2, 3].map(|side| match &projections[side] {
        Some(projection) if momentum.is_none() => projection.detach(),
        _ if is_key[side] => passes.keys(key_model, &images[side]),
        _ => Tensor::new(),
    });
    let queries = [0, 1, 2, 3].map(|side| {
        let projection = projections[side].take().or_else(|| features[side].as_ref().map(project));
        projection.map_or_else(Tensor::new, |projection| predict(&projection))
    });
    if let (Some(momentum), Some((store, _))) = (&learner.momentum, &momentum) {
        set(&running_statistics(momentum.store()), &running_statistics(store));
    }

    let identity = target(&|_| Tensor::eye(BATCH, DOUBLE));
    let shares = target(&|views| mix_to_origin_target(&views.global[1].1));
    let (origin, mix) = (config.origin_smoothing, config.mix_smoothing);
    let mut losses = Tensors::new();
    // Query, key, and the same with the views exchanged.
    for (name, wanted, target, smoothing, [(query, key), (other_query, other_key)]) in [
        ("origin_to_origin", oo, &identity, origin, [(0, 1), (1, 0)]),
        ("mix_to_origin", mo, &shares, mix, [(3, 0), (2, 1)]),
        ("mix_to_mix", mm, &shares.matmul(&shares.tr()), mix, [(3, 2), (2, 3)]),
    ] {
        if wanted {
            let mut loss = compare(&queries[query], &keys[key], target, smoothing, config);
            if both {
                loss = (loss + compare(&queries[other_query], &keys[other_key], target, smoothing, config)) / 2.0;
            }
            losses.insert(name.to_owned(), loss);
        }
    }
    for (name, wanted, is_mixed, smoothing) in
        [("local_to_origin", lo, false, origin), ("local_mix_to_origin", lmo, true, mix)]
    {
        if crops == 0 || !wanted {
            continue;
        }
        let view = |crop: &Crop| if is_mixed { mixed(crop) } else { plain(crop) };
        let images: Vec<Tensor> = (0..crops).map(|crop| all(&|views| view(&views.local[crop]))).collect();
        let features = passes.queries(&Tensor::cat(&images, 0));
        let queries = predict(&project(&features)).split(BATCH * views.len() as i64, 0);
        let mut loss = Tensor::zeros([], DOUBLE);
        for (crop, query) in queries.iter().enumerate() {
            let shares = match is_mixed {
                true => target(&|views| mix_to_origin_target(&views.local[crop].1)),
                false => identity.shallow_clone(),
            };
            for key in &keys[..2] {
                loss += compare(query, key, &shares, smoothing, config) / crops as f64;
            }
        }
        losses.insert(name.to_owned(), loss);
    }
    let weighted = Losses::TERMS.iter().zip(weights.to_array());
    let weighted = weighted.filter_map(|(term, weight)| Some(losses.get(term.name)? * weight));
    losses.insert("total".to_owned(), weighted.sum());
    losses
}
