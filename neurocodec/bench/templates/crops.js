// SPDX-License-Identifier: Apache-2.0
//
// Above each row of crops, the same crops under a slider: the original on the right, the first nic on the left.
for (const crops of document.querySelectorAll(".crops")) {
  const images = [...crops.querySelectorAll("img")].map((image) => image.cloneNode());
  const slider = document.createElement("picture-slider");
  for (const side of ["width", "height"]) slider.setAttribute(side, images[0].getAttribute(side));
  slider.setAttribute("left", Math.max(1, images.findIndex((image) => image.dataset.name.startsWith("nic"))));
  slider.setAttribute("right", 0);
  slider.append(...images);
  crops.before(slider);
}
