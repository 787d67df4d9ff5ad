use patchmix::data::ImageFolder;

use super::*;

#[test]
fn all_images_of_a_list_are_the_list_itself() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("class")).unwrap();
    for name in ["a", "b"] {
        std::fs::write(place.path().join(format!("class/{name}.jpg")), "").unwrap();
    }
    let all = Arc::new(Listing::Folder(ImageFolder::open(place.path()).unwrap()));
    assert!([0, 2, 5].iter().all(|&count| Arc::ptr_eq(&some_of(&all, count).unwrap(), &all)));
    assert_eq!(some_of(&all, 1).unwrap().len(), 1);
}
