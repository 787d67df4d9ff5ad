"""Views of PIL images by torchvision, and a training loop that loads them as the published code does."""

import random

import torch
from PIL import ImageFilter
from torchvision import transforms as t
from torchvision.transforms.functional import to_pil_image


def random_images(count, side):
    return [to_pil_image(torch.rand(3, side, side, device="cpu")) for _ in range(count)]


def blurred(image):
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def recipe(side, blur, solarize):
    return t.Compose([
        t.RandomResizedCrop(side, scale=(0.1, 1.0), interpolation=t.InterpolationMode.BICUBIC),
        t.RandomApply([t.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        t.RandomGrayscale(p=0.2),
        t.RandomApply([t.Lambda(blurred)], p=blur),
        t.RandomSolarize(128, p=solarize),
        t.RandomHorizontalFlip(),
        t.ToTensor(),
        t.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ])


def recipes(side):
    """The two published views: the first always blurred, the second rarely blurred and sometimes solarized."""
    return recipe(side, 1.0, 0.0), recipe(side, 0.1, 0.2)


class TwoViews(torch.utils.data.Dataset):
    """`count` draws from a few thousand images, which may repeat, since their views differ."""

    def __init__(self, count, side):
        self.count, self.images, self.recipes = count, random_images(min(count, 4096), side), recipes(side)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = self.images[index % len(self.images)]
        return [recipe(image) for recipe in self.recipes]


class Loop:
    """Training steps on views made by worker processes."""

    WARM_UP = 5

    def __init__(self, step, side, batch, steps, workers):
        self.step, self.device, self.steps = step, step.views[0].device, steps
        with torch.device("cpu"):  # the loader's random numbers and workers must stay off the GPU
            data = TwoViews((self.WARM_UP + steps) * batch, side)
            self.loader = torch.utils.data.DataLoader(
                data, batch, shuffle=True, num_workers=workers, pin_memory=self.device.type == "cuda", drop_last=True
            )

    def seconds(self, timed):
        """The time of the steps after a warm-up, when all workers run."""
        with torch.device("cpu"):
            batches = iter(self.loader)

        def run(steps):
            for _ in range(steps):
                with torch.device("cpu"):
                    views = next(batches)
                self.step.views = [view.to(self.device, non_blocking=True) for view in views]
                self.step.run()

        run(self.WARM_UP)
        return timed(lambda: run(self.steps))
