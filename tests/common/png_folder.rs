//! Built-in images as PNG files in class folders.

use std::fs;
use std::path::Path;

use image::RgbImage;
use patchmix::data::{Dataset, procedural};
use tch::Tensor;

/// Side of the images in pixels.
pub(crate) const SIDE: i64 = 32;

/// Writes built-in images to `data/train` and `data/val`, and returns both splits in the order of the files.
pub(crate) fn png_folder(data: &Path, counts: [i64; 2]) -> [Dataset; 2] {
    [("train", 0), ("val", 1)].map(|(name, part)| {
        let images = procedural(counts[part], SIDE, part as u64 + 1).unwrap();
        // Sorted by class. The sort is stable, like the order of the files in a class.
        let labels = Vec::<i64>::try_from(&images.labels).unwrap();
        let mut order: Vec<i64> = (0..images.len()).collect();
        order.sort_by_key(|position| labels[*position as usize]);
        for &position in &order {
            let class = data.join(name).join(format!("class-{}", labels[position as usize]));
            fs::create_dir_all(&class).unwrap();
            let pixels: Tensor = images.images.get(position).permute([1, 2, 0]).contiguous().view(-1);
            let side = SIDE as u32;
            let picture = RgbImage::from_raw(side, side, pixels.try_into().unwrap()).unwrap();
            picture.save(class.join(format!("{position:05}.png"))).unwrap();
        }
        let (pixels, labels) = images.select(&order).unwrap();
        Dataset { images: pixels, labels, class_names: images.class_names }
    })
}
