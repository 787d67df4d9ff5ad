use super::*;

fn run(epochs: i64, every: i64) -> Metrics {
    let row = |epoch: i64| {
        let time = epoch as f64 / epochs as f64;
        let fall = |from: f64, to: f64| to + (from - to) * (-4.0 * time).exp();
        let (oo, mo, mm) = (fall(6.2, 2.1), fall(6.2, 3.4), fall(6.2, 4.0));
        Epoch {
            epoch,
            loss: oo + (mo + mm) / 2.0,
            origin_to_origin: oo,
            mix_to_origin: mo,
            mix_to_mix: mm,
            local: None,
            knn: (epoch % every == 0).then(|| 82.0 - 45.0 * (-3.0 * time).exp()),
            learning_rate: 4e-3 * (time / 0.125).min(0.5 + 0.5 * (std::f64::consts::PI * time).cos()),
        }
    };
    Metrics { epochs: (1..=epochs).map(row).collect(), raw_pixels: Some(33.9), untrained_encoder: Some(38.2) }
}

fn draw(curves: &Metrics) -> image::RgbImage {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("curves.png");
    curves_picture(&path, curves).unwrap();
    image::open(path).unwrap().into_rgb8()
}

#[test]
fn the_picture_follows_the_run() {
    let curves = run(40, 5);
    let picture = draw(&curves);
    assert_eq!(picture.dimensions(), (SIZE.0 as u32, SIZE.1 as u32));
    assert_eq!(picture, draw(&curves));
    let mut other = curves.clone();
    other.epochs[20].mix_to_mix += 1.0;
    assert_ne!(picture, draw(&other));
    other.epochs.iter_mut().for_each(|row| row.local = Some([2.0 * row.mix_to_mix, row.loss]));
    assert!(draw(&other).height() > picture.height(), "two more losses are named");
    let other = Metrics { raw_pixels: None, ..curves };
    assert_ne!(picture, draw(&other));
}

#[test]
fn runs_of_any_length_are_drawn() {
    let mut lengths: Vec<_> = [1, 2, 3, 800].map(|epochs| draw(&run(epochs, 1))).to_vec();
    lengths.push(draw(&Metrics::default()));
    for (index, picture) in lengths.iter().enumerate() {
        assert!(lengths[..index].iter().all(|other| other != picture));
    }
}

#[test]
fn what_is_not_finite_is_left_out() {
    let mut curves = run(10, 20);
    for (index, value) in [(3, f64::NAN), (4, f64::INFINITY)] {
        curves.epochs[index].loss = value;
        curves.epochs[index].knn = Some(value);
    }
    curves.untrained_encoder = Some(f64::NAN);
    assert_eq!(points(&curves, |row| row.loss).len(), 8);
    draw(&curves);
}
