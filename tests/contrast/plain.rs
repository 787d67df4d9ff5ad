//! A plain implementation of the losses: whole batches, dense targets, crop by crop.

use patchmix::MixPlan;
use patchmix::contrast::{LossConfig, Model};
use tch::nn::VarStore;
use tch::{Device, Kind, Tensor};

use crate::scene::{BATCH, Crop, DOUBLE, HEADS, Learner, Tensors, Views, set};

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

/// A model with the weights of the momentum network. Its predictor is not used.
fn momentum_model(learner: &Learner) -> Option<Model> {
    let momentum = learner.momentum.as_ref()?;
    let mut store = VarStore::new(Device::Cpu);
    let model = Model::new(&store.root(), learner.model.network.encoder.config(), &HEADS).unwrap();
    store.double();
    let values: Tensors = momentum.store().variables().into_iter().collect();
    set(&store.variables().into_iter().filter(|(name, _)| values.contains_key(name)).collect(), &values);
    Some(model)
}

/// The total and its terms over the images of all ranks; `views` has one entry per rank.
pub(crate) fn plain_losses(learner: &Learner, views: &[Views], config: &LossConfig) -> Tensors {
    let model = &learner.model;
    let momentum = momentum_model(learner);
    let patch_size = model.network.encoder.config().patch_size;
    let mixed = |(images, plan): &Crop| plan.mix_images(images, patch_size).unwrap();
    let plain = |(images, _): &Crop| images.shallow_clone();
    // One view of the images of all ranks.
    let all = |part: &dyn Fn(&Views) -> Tensor| Tensor::cat(&views.iter().map(part).collect::<Vec<_>>(), 0);
    let target = |part: &dyn Fn(&Views) -> Tensor| Tensor::block_diag(&views.iter().map(part).collect::<Vec<_>>());
    let project = |images: &Tensor| model.network.forward(images, true).unwrap();
    let predict = |projection: &Tensor| model.predictor.forward(projection, true).unwrap();
    let key =
        |images: &Tensor| tch::no_grad(|| momentum.as_ref().unwrap_or(model).network.forward(images, true).unwrap());

    let view_1 = all(&|views| plain(&views.global[0]));
    let projection_1 = project(&view_1);
    let query_1 = predict(&projection_1);
    let key_1 = if momentum.is_some() { key(&view_1) } else { projection_1.detach() };
    let key_2 = key(&all(&|views| plain(&views.global[1])));
    let mixed_key_1 = key(&all(&|views| mixed(&views.global[0])));
    let mixed_query_2 = predict(&project(&all(&|views| mixed(&views.global[1]))));

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
        let queries = |view: &dyn Fn(&Crop) -> Tensor| {
            let images: Vec<Tensor> = (0..crops).map(|crop| all(&|views| view(&views.local[crop]))).collect();
            predict(&project(&Tensor::cat(&images, 0))).split(BATCH * views.len() as i64, 0)
        };
        let (queries, mixed_queries) = (queries(&plain), queries(&mixed));
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

/// Running statistics without those of the momentum network, which [`plain_losses`] does not update.
pub(crate) fn model_statistics(statistics: Tensors) -> Tensors {
    statistics.into_iter().filter(|(name, _)| !name.starts_with("momentum ")).collect()
}
