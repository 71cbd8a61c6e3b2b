// SPDX-License-Identifier: Apache-2.0
//
// <picture-slider width="768" height="512">: pictures of one size under a movable edge. Its children, <img> or <canvas>,
// are named by data-name. The keys: arrows move the edge, F flips between the two pictures, D shows their difference,
// + and - zoom. The edge is dragged; a picture that is larger than the view is dragged everywhere else.

const ZOOMS = [0, 1, 2, 4, 8];  // 0: as large as the view
const REACH = 28;  // pixels beside the edge that move it in a zoomed picture

class PictureSlider extends HTMLElement {
  #share = 50;
  #zoom = 0;
  #flipped = false;
  #different = false;

  connectedCallback() {
    const root = this.shadowRoot ?? this.attachShadow({ mode: "open" });
    root.innerHTML = `
      <style>
        :host { display: block; }
        [hidden] { display: none !important; }
        .bar { display: flex; flex-wrap: wrap; gap: .4rem .75rem; margin: 0 0 .5rem; align-items: center; }
        select, button { font: inherit; padding: .2rem .5rem; }
        .view { position: relative; margin: auto; }
        .scroll { overflow: auto; max-height: 80vh; background: #8882; }
        .stage { position: relative; margin: auto; touch-action: pan-y; cursor: ew-resize; outline-offset: 2px; }
        .zoomed .stage { touch-action: none; cursor: grab; }
        .different .stage { filter: brightness(6); }
        ::slotted(*) { position: absolute; inset: 0; width: 100%; height: 100%; user-select: none; }
        .zoomed ::slotted(*) { image-rendering: pixelated; }
        .edge { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #fff; z-index: 3;
                box-shadow: 0 0 0 1px #000; pointer-events: none; }
        .edge::after { content: ""; position: sticky; display: block; top: calc(50% - 14px); width: 28px; height: 28px;
                       margin-left: -13px; border-radius: 50%; background: #fff; box-shadow: 0 0 0 1px #000; }
        .name { position: absolute; top: .5rem; z-index: 4; max-width: 45%; padding: .1rem .5rem; border-radius: .25rem;
                font-size: .8rem; color: #fff; background: #000a; pointer-events: none; }
        .name.right { right: .5rem; text-align: right; } .name.left { left: .5rem; }
      </style>
      <div class="bar">
        <label class="choice">Left <select class="left"></select></label>
        <label class="choice">Right <select class="right"></select></label>
        <label>Size <select class="zoom">${ZOOMS.map((z) => `<option value="${z}">${z ? `${z}×` : "fit"}`).join("")}</select></label>
        <button class="flip" type="button" title="F">Flip</button>
        <button class="difference" type="button" aria-pressed="false" title="D">Difference</button>
      </div>
      <div class="view">
        <span class="name left"></span><span class="name right"></span>
        <div class="scroll"><div class="stage" tabindex="0" role="slider" aria-label="Position of the edge, in percent"
          aria-valuemin="0" aria-valuemax="100"><slot></slot><div class="edge"></div></div></div>
      </div>`;
    const find = (name) => root.querySelector(name);
    this.parts = { left: find("select.left"), right: find("select.right"), zoom: find(".zoom"), view: find(".view") };
    Object.assign(this.parts, { scroll: find(".scroll"), stage: find(".stage"), edge: find(".edge"), bar: find(".bar") });
    Object.assign(this.parts, { names: root.querySelectorAll(".name"), difference: find(".difference") });
    for (const side of ["left", "right"]) this.parts[side].addEventListener("input", () => this.#draw());
    this.parts.zoom.addEventListener("input", () => this.#setZoom(Number(this.parts.zoom.value)));
    find(".flip").addEventListener("click", () => this.#flip());
    this.parts.difference.addEventListener("click", () => this.#differ());
    this.parts.stage.addEventListener("pointerdown", (event) => this.#drag(event));
    this.parts.stage.addEventListener("keydown", (event) => this.#key(event));
    find("slot").addEventListener("slotchange", () => this.update());
    this.update();
  }

  /** Reads the children, their names and the attributes again. */
  update() {
    const { left, right, bar, stage } = this.parts;
    this.pictures = [...this.children];
    const chosen = [left.value || this.getAttribute("left") || 0, right.value || this.getAttribute("right") || 1];
    for (const [select, value] of [[left, chosen[0]], [right, chosen[1]]]) {
      select.replaceChildren(...this.pictures.map((picture, i) => new Option(picture.dataset.name ?? `${i + 1}`, i)));
      select.value = value;
    }
    for (const choice of bar.querySelectorAll(".choice")) choice.hidden = this.pictures.length < 3;
    stage.style.aspectRatio = `${this.getAttribute("width")} / ${this.getAttribute("height")}`;
    this.#setZoom(this.#zoom);
  }

  #draw() {
    const { left, right, names, edge, stage, view, difference } = this.parts;
    const [under, over] = [this.pictures[left.value], this.pictures[right.value]];
    const share = this.#different ? 0 : this.#flipped ? (this.#share < 50 ? 100 : 0) : this.#share;
    for (const picture of this.pictures) {
      picture.hidden = picture !== under && picture !== over;
      Object.assign(picture.style, { clipPath: "", zIndex: picture === over ? 1 : 0, mixBlendMode: "" });
    }
    if (over && under !== over) {
      over.style.clipPath = `inset(0 0 0 ${share}%)`;
      over.style.mixBlendMode = this.#different ? "difference" : "";
    }
    edge.style.left = `${share}%`;
    edge.hidden = this.#flipped || this.#different;
    view.classList.toggle("different", this.#different);
    difference.setAttribute("aria-pressed", this.#different);
    const titles = [under, over].map((picture) => picture?.dataset.name ?? "");
    names[0].textContent = this.#different ? `Difference of ${titles.join(" and ")}, 6 times as bright` : titles[0];
    names[1].textContent = titles[1];
    names[0].hidden = !this.#different && share === 0;
    names[1].hidden = this.#different || share === 100;
    stage.setAttribute("aria-valuenow", Math.round(this.#share));
  }

  #setZoom(zoom) {
    const { scroll, stage, view } = this.parts;
    const [width, height] = [Number(this.getAttribute("width")), Number(this.getAttribute("height"))];
    const centre = ["Left", "Top"].map((side) => {
      const length = side === "Left" ? "Width" : "Height";
      return (scroll[`scroll${side}`] + scroll[`client${length}`] / 2) / Math.max(1, scroll[`scroll${length}`]);
    });
    this.#zoom = zoom;
    this.parts.zoom.value = zoom;
    view.classList.toggle("zoomed", zoom > 0);
    stage.style.width = zoom ? `${zoom * width}px` : "100%";
    view.style.maxWidth = zoom ? "" : `calc(80vh * ${width / height})`;
    scroll.scrollLeft = centre[0] * scroll.scrollWidth - scroll.clientWidth / 2;
    scroll.scrollTop = centre[1] * scroll.scrollHeight - scroll.clientHeight / 2;
    this.#draw();
  }

  #flip() {
    this.#flipped = !this.#flipped;
    this.#different = false;
    this.#draw();
  }

  #differ() {
    this.#different = !this.#different;
    this.#flipped = false;
    this.#draw();
  }

  #move(share) {
    this.#share = Math.min(100, Math.max(0, share));
    this.#flipped = this.#different = false;
    this.#draw();
  }

  #drag(event) {
    if (event.button !== 0) return;
    const { stage, scroll } = this.parts;
    const box = () => stage.getBoundingClientRect();
    const at = (e) => (100 * (e.clientX - box().left)) / box().width;
    const near = Math.abs(event.clientX - box().left - (this.#share / 100) * box().width) < REACH;
    const pans = this.#zoom > 0 && !near;
    const start = { x: event.clientX + scroll.scrollLeft, y: event.clientY + scroll.scrollTop };
    const follow = (e) => {
      if (pans) scroll.scrollTo(start.x - e.clientX, start.y - e.clientY);
      else this.#move(at(e));
    };
    if (!pans) this.#move(at(event));
    stage.setPointerCapture(event.pointerId);
    stage.addEventListener("pointermove", follow);
    const end = () => stage.removeEventListener("pointermove", follow);
    for (const type of ["pointerup", "pointercancel"]) stage.addEventListener(type, end, { once: true });
    stage.focus({ preventScroll: true });
    event.preventDefault();
  }

  #key(event) {
    const step = event.shiftKey ? 10 : 2;
    const next = (by) => ZOOMS[Math.min(ZOOMS.length - 1, Math.max(0, ZOOMS.indexOf(this.#zoom) + by))];
    const actions = {
      ArrowLeft: () => this.#move(this.#share - step),
      ArrowRight: () => this.#move(this.#share + step),
      Home: () => this.#move(0),
      End: () => this.#move(100),
      f: () => this.#flip(),
      d: () => this.#differ(),
      "+": () => this.#setZoom(next(1)),
      "-": () => this.#setZoom(next(-1)),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  }
}

customElements.define("picture-slider", PictureSlider);
