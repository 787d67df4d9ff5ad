//! A plain implementation of the losses: whole batches, dense targets, crop by crop.

use patchmix::MixPlan;
use patchmix::contrast::{KeyNetwork, LossConfig, Model};
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
    for image in 0..BATCH {
        for group in plan.group_of_position() {
            let source = (image + group * plan.mix_stride()) % BATCH;
            target[(image * BATCH + source) as usize] += 1.0 / plan.patches() as f64;
        }
    }
    Tensor::from_slice(&target).view([BATCH, BATCH])
}

/// `-(1/B) Σ_i Σ_j target[i, j] log softmax(q̂ k̂ᵀ / τ)[i, j]` with the smoothed target.
fn cross_entropy(q: &Tensor, k: &Tensor, target: &Tensor, smoothing: f64, temperature: f64) -> Tensor {
    let normalize = |x: &Tensor| x / x.square().sum_dim_intlist(-1, true, None::<Kind>).sqrt();
    let target = target * (1.0 - smoothing) + smoothing / k.size()[0] as f64;
    let logits = normalize(q).matmul(&normalize(k).tr()) / temperature;
    -(target * logits.log_softmax(-1, Kind::Double)).sum(Kind::Double) / q.size()[0] as f64
}

/// A model with the weights of the momentum network, which drops no paths. Its predictor is not used.
fn momentum_model(learner: &Learner) -> Option<(VarStore, Model)> {
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

/// The total and its terms over the images of all ranks; `views` has one entry per rank. Paths are dropped as by one
/// process seeded with [`SEED`].
pub(crate) fn plain_losses(learner: &Learner, views: &[Views], config: &LossConfig) -> Tensors {
    let model = &learner.model;
    let momentum = momentum_model(learner);
    let patch_size = model.network.encoder.config().patch_size;
    let mixed = |(images, plan): &Crop| plan.mix_images(images, patch_size).unwrap();
    let plain = |(images, _): &Crop| images.shallow_clone();
    // One view of the images of all ranks.
    let all = |part: &dyn Fn(&Views) -> Tensor| Tensor::cat(&views.iter().map(part).collect::<Vec<_>>(), 0);
    let target = |part: &dyn Fn(&Views) -> Tensor| Tensor::block_diag(&views.iter().map(part).collect::<Vec<_>>());
    let project = |features: &Tensor| model.network.projector.forward(features, true).unwrap();
    let predict = |projection: &Tensor| model.predictor.forward(projection, true).unwrap();

    let [view_1, view_2] = [0, 1].map(|view| all(&|views| plain(&views.global[view])));
    let [mixed_1, mixed_2] = [0, 1].map(|view| all(&|views| mixed(&views.global[view])));
    tch::manual_seed(SEED);
    let mut passes = Passes::new(model, config.micro_batch);
    let (features_1, mixed_features_2) = (passes.queries(&view_1), passes.queries(&mixed_2));
    let projection_1 = project(&features_1);
    let query_1 = predict(&projection_1);
    let key_model = momentum.as_ref().map_or(model, |(_, copy)| copy);
    let key_1 = if momentum.is_some() { passes.keys(key_model, &view_1) } else { projection_1.detach() };
    let (key_2, mixed_key_1) = (passes.keys(key_model, &view_2), passes.keys(key_model, &mixed_1));
    let mixed_query_2 = predict(&project(&mixed_features_2));
    if let (Some(momentum), Some((store, _))) = (&learner.momentum, &momentum) {
        set(&running_statistics(momentum.store()), &running_statistics(store));
    }

    let (origin, mix) = (config.origin_smoothing, config.mix_smoothing);
    let loss =
        |q: &Tensor, k: &Tensor, target: &Tensor, smoothing| cross_entropy(q, k, target, smoothing, config.temperature);
    let identity = target(&|_| Tensor::eye(BATCH, DOUBLE));
    let shares = target(&|views| mix_to_origin_target(&views.global[1].1));
    let origin_to_origin = loss(&query_1, &key_2, &identity, origin);
    let mix_to_origin = loss(&mixed_query_2, &key_1, &shares, mix);
    let mix_to_mix = loss(&mixed_query_2, &mixed_key_1, &shares.matmul(&shares.tr()), mix);
    let mut total = &origin_to_origin + (&mix_to_origin + &mix_to_mix) / 2.0;
    let mut losses = Tensors::from(
        [("origin_to_origin", origin_to_origin), ("mix_to_origin", mix_to_origin), ("mix_to_mix", mix_to_mix)]
            .map(|(name, loss)| (name.to_owned(), loss)),
    );
    let crops = views[0].local.len();
    if crops > 0 {
        let mut features = |view: &dyn Fn(&Crop) -> Tensor| {
            let images: Vec<Tensor> = (0..crops).map(|crop| all(&|views| view(&views.local[crop]))).collect();
            passes.queries(&Tensor::cat(&images, 0))
        };
        let queries = [features(&plain), features(&mixed)];
        let queries = queries.map(|features| predict(&project(&features)).split(BATCH * views.len() as i64, 0));
        let [queries, mixed_queries] = queries;
        let (mut local_to_origin, mut local_mix_to_origin) = (Tensor::zeros([], DOUBLE), Tensor::zeros([], DOUBLE));
        for crop in 0..crops {
            let shares = target(&|views| mix_to_origin_target(&views.local[crop].1));
            for key in [&key_1, &key_2] {
                local_to_origin += loss(&queries[crop], key, &identity, origin) / crops as f64;
                local_mix_to_origin += loss(&mixed_queries[crop], key, &shares, mix) / crops as f64;
            }
        }
        total = total + &local_to_origin + &local_mix_to_origin;
        losses.insert("local_to_origin".to_owned(), local_to_origin);
        losses.insert("local_mix_to_origin".to_owned(), local_mix_to_origin);
    }
    losses.insert("total".to_owned(), total);
    losses
}
