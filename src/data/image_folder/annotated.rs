//! Images of one folder whose classes a text file names.

use std::collections::HashMap;
use std::path::Path;

use super::ImageFolder;
use super::list::Walk;
use super::problem;
use crate::data::folder::shortened;
use crate::error::Result;
use crate::files::read_small;

/// Limit of the bytes of the text, a million lines; in memory, the shortest ones take ten times as much.
const MAX_TEXT: u64 = 1 << 25;

impl ImageFolder {
    /// Lists the images of `folder` with the classes that the text file `annotations` gives them, as the validation
    /// images of Tiny-ImageNet come: the class named `class_names[label]` has label `label`.
    ///
    /// A line of the text begins with the file name of an image, a tab, and the name of its class; what follows after
    /// another tab is ignored. The images are sorted by class and name.
    ///
    /// # Errors
    ///
    /// [`Error::Data`](crate::Error::Data) for a line without a tab, with an unknown class or with a file that is
    /// named twice, if an image is missing in the text or in the folder, or if there are none;
    /// [`Error::Io`](crate::Error::Io) if folder or text cannot be read.
    pub fn annotated(folder: &Path, annotations: &Path, class_names: &[String]) -> Result<ImageFolder> {
        let text = String::from_utf8(read_small(annotations, MAX_TEXT)?)
            .map_err(|_| problem(annotations, "is not text; unpack the data set again".to_owned()))?;
        let mut label_of = labels(&text, class_names).map_err(|fault| problem(annotations, fault))?;
        let mut walk = Walk::new(folder)?;
        let mut of_class = vec![Vec::new(); class_names.len()];
        for path in walk.all_images()? {
            match label_of.remove(&*path) {
                Some(label) => of_class[label].push(path),
                None => return Err(problem(annotations, format!("gives the image {} no class", shortened(&path)))),
            }
        }
        if let Some(missing) = label_of.keys().min() {
            return Err(problem(&folder.join(shortened(missing)), "is missing; unpack the data set again".to_owned()));
        }
        let mut images = ImageFolder::empty(folder, class_names.to_vec());
        for paths in of_class {
            paths.iter().for_each(|path| images.push(path));
            images.class_starts.push(images.len());
        }
        match images.is_empty() {
            true => Err(problem(folder, "contains no jpeg, png or webp file".to_owned())),
            false => Ok(images.listed(walk)),
        }
    }
}

/// The label of every file that the text names; or what is wrong with the text.
fn labels<'a>(text: &'a str, class_names: &[String]) -> std::result::Result<HashMap<&'a str, usize>, String> {
    let labels: HashMap<&str, usize> = class_names.iter().map(String::as_str).zip(0..).collect();
    let mut label_of = HashMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        let mut cells = line.split('\t');
        let (Some(file), Some(class)) = (cells.next(), cells.next()) else {
            return Err(format!("line {number} has no tab between the name of a file and a class"));
        };
        let Some(&label) = labels.get(class.trim_end()) else {
            let (class, count) = (shortened(class), class_names.len());
            return Err(format!("line {number}: {class} is not one of the {count} classes of the training images"));
        };
        if label_of.insert(file, label).is_some() {
            return Err(format!("line {number} names {} again", shortened(file)));
        }
    }
    Ok(label_of)
}
