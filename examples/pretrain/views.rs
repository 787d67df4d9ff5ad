//! The views of a batch: two global ones of every image, and small local ones where the run has them.

use patchmix::augment::ViewRecipe;
use patchmix::data::CroppedBatch;
use patchmix::random::Purpose;
use tch::Tensor;

use super::Result;
use super::settings::Settings;
use super::world::World;

/// A batch as its loader hands it over.
pub(crate) enum Loaded {
    /// Positions in the data set, which is on the device as a whole.
    Positions(Vec<i64>),
    /// Crops of decoded files, on the CPU.
    Crops(CroppedBatch),
}

/// A batch on its way to the model.
pub(crate) struct Batch {
    pub(crate) images: BatchImages,
    /// Broken files, whose images are not here.
    pub(crate) broken: u64,
}

/// The images of a batch, on the device.
pub(crate) enum BatchImages {
    /// `[B, 3, H, W]`.
    Whole(Tensor),
    /// Cut out and resized already: for every one of [`view_recipes`] a crop of every image, `[B, 3, size, size]`.
    Cut(Vec<Tensor>),
}

/// What the model looks at, each `[B, 3, size, size]`.
pub(crate) struct Views {
    pub(crate) global: [Tensor; 2],
    pub(crate) local: Vec<Tensor>,
}

/// How the views are drawn: the first, the second, then the local ones.
pub(crate) fn view_recipes(settings: &Settings) -> Vec<ViewRecipe> {
    let Settings { image_size, crop_min_scale, local_crops, local_size, local_max_scale, .. } = *settings;
    let global_min_scale = if local_crops > 0 { local_max_scale } else { crop_min_scale };
    let local = ViewRecipe::local(local_size, (crop_min_scale, local_max_scale));
    let global = [ViewRecipe::first(image_size, global_min_scale), ViewRecipe::second(image_size, global_min_scale)];
    global.into_iter().chain((0..local_crops).map(|_| local.clone())).collect()
}

impl Batch {
    /// The batch as all ranks have it: keys of different numbers could not be gathered, so the smallest batch decides,
    /// and what of it can be mixed. It may be empty.
    pub(crate) fn of_one_size(self, settings: &Settings, world: &World) -> Result<Batch> {
        let Batch { images: BatchImages::Cut(crops), broken } = self else { return Ok(self) };
        let least = world.least(crops[0].size()[0])?;
        let size = (2..=least).rev().find(|size| settings.check_can_mix(*size).is_ok()).unwrap_or(0);
        let cut = crops.iter().map(|crop| crop.f_narrow(0, 0, size)).collect::<std::result::Result<_, _>>()?;
        Ok(Batch { images: BatchImages::Cut(cut), broken: world.sum(broken)? })
    }

    /// Whether so many of the files are broken that nothing is left to contrast.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.images {
            BatchImages::Whole(images) => images.size()[0] == 0,
            BatchImages::Cut(crops) => crops[0].size()[0] == 0,
        }
    }

    /// The views of this batch, drawn from what `seed` gives for a purpose.
    pub(crate) fn views(&self, settings: &Settings, seed: impl Fn(Purpose) -> i64) -> Result<Views> {
        let mut views = Vec::new();
        for (index, recipe) in view_recipes(settings).iter().enumerate() {
            match index {
                0 => tch::manual_seed(seed(Purpose::FirstView)),
                1 => tch::manual_seed(seed(Purpose::SecondView)),
                2 => tch::manual_seed(seed(Purpose::LocalViews)),
                _ => {} // one after the other
            }
            views.push(match &self.images {
                BatchImages::Whole(images) => recipe.view(images)?,
                BatchImages::Cut(crops) => recipe.view_of_crops(&crops[index])?,
            });
        }
        let local = views.split_off(2);
        let global = views.try_into().map_err(|_| "there are always two global views")?;
        Ok(Views { global, local })
    }
}
