// SPDX-License-Identifier: Apache-2.0
//
// <picture-slider width="768" height="512" left="0" right="1">: pictures of one size under a movable edge. Its children,
// such as <img> or <canvas>, are named by data-name; left and right are the two that are shown first.
//
// The edge is dragged; a picture that is larger than the view is dragged everywhere else. The keys: arrows move the edge,
// and with Shift a picture that is larger than the view; F flips between the two pictures, D shows their difference, + and -
// zoom. The custom property --fit-height limits a picture that fits. Without JavaScript the children follow one another.
//
// The pages of `neurocodec compare` and `neurocodec bench rd` hold this file; `make web` copies it for the example page.

const ZOOMS = [0, 1, 2, 4, 8];  // 0: as large as the view
const LARGEST_FIT = 2;
const REACH = 28;  // pixels beside the edge that move it in a zoomed picture

class PictureSlider extends HTMLElement {
  static observedAttributes = ["width", "height", "left", "right"];

  #parts;
  #pictures = [];
  #share = 50;
  #zoom = 0;
  #flipped = "";  // the side that is shown alone: "", "left" or "right"
  #different = false;

  connectedCallback() {
    if (!this.#parts) this.#build();
    this.#update();
  }

  attributeChangedCallback() {
    if (this.#parts) this.#update();
  }

  #build() {
    const root = this.attachShadow({ mode: "open" });
    root.innerHTML = `
      <style>
        :host { display: block; min-width: 0; }
        [hidden] { display: none !important; }
        .bar { display: flex; flex-wrap: wrap; gap: .4rem .75rem; margin: 0 0 .5rem; align-items: center; font-size: .875rem; }
        @media (min-width: 600px) { .bar { justify-content: center; } }
        @media (max-width: 500px) {
          .choice { flex: 1 0 40%; }
          .choice span { display: none; }
          .choice select { width: 100%; }
        }
        label { display: flex; gap: .4rem; align-items: center; min-width: 0; }
        select, button {
          min-width: 0; margin: 0; padding: .3rem .6rem; border: 1px solid #8888; border-radius: .4rem;
          background: transparent; color: inherit; font: inherit; line-height: 1.4; text-overflow: ellipsis; cursor: pointer;
        }
        option { background: Canvas; color: CanvasText; }
        button[aria-pressed="true"] { background: CanvasText; border-color: CanvasText; color: Canvas; }
        .view { position: relative; isolation: isolate; margin: auto; overflow: hidden; border-radius: .4rem; }
        .scroll { overflow: auto; max-height: 80vh; background: #8882; }
        .stage { position: relative; margin: auto; touch-action: pan-y; cursor: ew-resize; outline: none; }
        .view:has(.stage:focus-visible) { outline: 3px solid Highlight; outline-offset: 2px; }
        .zoomed .stage { touch-action: none; cursor: grab; }
        .different .stage { filter: brightness(6); }
        ::slotted(*) {
          position: absolute; inset: 0; width: 100%; height: 100%; max-width: none; user-select: none; -webkit-user-drag: none;
        }
        .zoomed ::slotted(*) { image-rendering: pixelated; }
        .edge {
          position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px; background: #fff; z-index: 3;
          box-shadow: 0 0 0 1px #0006; pointer-events: none;
        }
        .edge::after {
          content: "‹ ›"; position: sticky; display: block; top: calc(50% - 1.25rem); width: 2.5rem; height: 2.5rem;
          margin-left: calc(1px - 1.25rem); border-radius: 50%; background: #fff; color: #1c1d1f; box-shadow: 0 1px 5px #0008;
          font: 600 1.1rem/2.3rem system-ui, sans-serif; text-align: center; white-space: nowrap;
        }
        .name {
          position: absolute; top: .5rem; z-index: 4; box-sizing: border-box; max-width: calc(50% - .75rem);
          padding: .1rem .6rem; border-radius: .8rem; background: #000b; color: #fff; font-size: .8125rem; line-height: 1.4;
          font-variant-numeric: tabular-nums; pointer-events: none;
        }
        .name.left { left: .5rem; }
        .name.right { right: .5rem; text-align: right; }
        .alone .name { max-width: calc(100% - 1rem); }
      </style>
      <div class="bar">
        <label class="choice"><span>Left</span> <select class="left" aria-label="Left"></select></label>
        <label class="choice"><span>Right</span> <select class="right" aria-label="Right"></select></label>
        <label>Size <select class="zoom">${ZOOMS.map((z) => `<option value="${z}">${z ? `${z}×` : "fit"}`).join("")}</select></label>
        <button class="flip" type="button" aria-pressed="false" title="F">Flip</button>
        <button class="difference" type="button" aria-pressed="false" title="D">Difference</button>
      </div>
      <div class="view">
        <span class="name left"></span><span class="name right"></span>
        <div class="scroll"><div class="stage" tabindex="0" role="slider" aria-label="Position of the edge, in percent"
          aria-valuemin="0" aria-valuemax="100"><slot></slot><div class="edge"></div></div></div>
      </div>`;
    const names = ["select.left", "select.right", ".zoom", ".flip", ".difference", ".view", ".scroll", ".stage", ".edge"];
    this.#parts = Object.fromEntries(names.map((name) => [name.replace(/^.*\./, ""), root.querySelector(name)]));
    this.#parts.names = root.querySelectorAll(".name");
    this.#parts.choices = root.querySelectorAll(".choice");
    const { left, right, zoom, flip, difference, stage } = this.#parts;
    for (const select of [left, right]) select.addEventListener("input", () => this.#draw());
    zoom.addEventListener("input", () => this.#setZoom(Number(zoom.value)));
    flip.addEventListener("click", () => this.#flip());
    difference.addEventListener("click", () => this.#differ());
    stage.addEventListener("pointerdown", (event) => this.#drag(event));
    stage.addEventListener("keydown", (event) => this.#key(event));
    root.querySelector("slot").addEventListener("slotchange", () => this.#update());
  }

  get #width() {
    return Number(this.getAttribute("width"));
  }

  get #height() {
    return Number(this.getAttribute("height"));
  }

  /** Reads the children, their names and the attributes. */
  #update() {
    const { choices, stage } = this.#parts;
    this.#pictures = [...this.children];
    const count = this.#pictures.length;
    for (const [side, first] of [["left", 0], ["right", 1]]) {
      const select = this.#parts[side];
      const chosen = select.selectedIndex;
      select.replaceChildren(...this.#pictures.map((picture, i) => new Option(picture.dataset.name ?? `${i + 1}`)));
      const index = chosen >= 0 && chosen < count ? chosen : Number(this.getAttribute(side) ?? first);
      select.selectedIndex = Math.min(index, count - 1);
    }
    for (const choice of choices) choice.hidden = this.#pictures.length < 3;
    stage.style.aspectRatio = `${this.#width} / ${this.#height}`;
    this.#setZoom(this.#zoom);
  }

  #draw() {
    const { left, right, names, edge, stage, view, flip, difference } = this.#parts;
    const [under, over] = [left, right].map((select) => this.#pictures[select.selectedIndex]);
    const share = this.#different ? 0 : ({ left: 100, right: 0 }[this.#flipped] ?? this.#share);
    for (const picture of this.#pictures) {
      const visibility = picture === under || picture === over ? "" : "hidden";
      Object.assign(picture.style, { visibility, clipPath: "", zIndex: picture === over ? 1 : 0, mixBlendMode: "" });
    }
    if (over && under !== over) {
      over.style.clipPath = `inset(0 0 0 ${share}%)`;
      over.style.mixBlendMode = this.#different ? "difference" : "";
    }
    edge.style.left = `${share}%`;
    edge.hidden = this.#flipped !== "" || this.#different;
    view.classList.toggle("different", this.#different);
    view.classList.toggle("alone", edge.hidden);
    flip.setAttribute("aria-pressed", this.#flipped !== "");
    difference.setAttribute("aria-pressed", this.#different);
    const titles = [under, over].map((picture) => picture?.dataset.name ?? "");
    names[0].textContent = this.#different ? `Difference of ${titles.join(" and ")}, 6 times as bright` : titles[0];
    names[1].textContent = titles[1];
    names[0].hidden = !names[0].textContent || (!this.#different && share === 0);
    names[1].hidden = !names[1].textContent || this.#different || share === 100;
    stage.setAttribute("aria-valuenow", Math.round(this.#share));
  }

  /** Keeps the middle of the view. */
  #setZoom(zoom) {
    const { scroll, stage, view } = this.#parts;
    const [width, height] = [this.#width, this.#height];
    const centre = ["Left", "Top"].map((side) => {
      const length = side === "Left" ? "Width" : "Height";
      return (scroll[`scroll${side}`] + scroll[`client${length}`] / 2) / Math.max(1, scroll[`scroll${length}`]);
    });
    this.#zoom = zoom;
    this.#parts.zoom.value = zoom;
    view.classList.toggle("zoomed", zoom > 0);
    stage.style.width = zoom ? `${zoom * width}px` : "100%";
    view.style.maxWidth = zoom ? "" : `min(${LARGEST_FIT * width}px, var(--fit-height, 80vh) * ${width / height})`;
    scroll.scrollLeft = centre[0] * scroll.scrollWidth - scroll.clientWidth / 2;
    scroll.scrollTop = centre[1] * scroll.scrollHeight - scroll.clientHeight / 2;
    this.#draw();
  }

  /** The right picture alone, then the left, and so on. */
  #flip() {
    this.#flipped = this.#flipped === "right" ? "left" : "right";
    this.#different = false;
    this.#draw();
  }

  #differ() {
    this.#different = !this.#different;
    this.#flipped = "";
    this.#draw();
  }

  #move(share) {
    this.#share = Math.min(100, Math.max(0, share));
    this.#flipped = "";
    this.#different = false;
    this.#draw();
  }

  /** A finger on a picture that fits may be about to scroll the page: the edge waits until it moves sideways, or leaves. */
  #drag(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    const { stage, scroll } = this.#parts;
    const box = () => stage.getBoundingClientRect();
    const near = Math.abs(event.clientX - box().left - (this.#share / 100) * box().width) < REACH;
    const pans = this.#zoom > 0 && !(near && !this.#parts.edge.hidden);
    const start = { x: event.clientX + scroll.scrollLeft, y: event.clientY + scroll.scrollTop };
    let waits = event.pointerType === "touch" && this.#zoom === 0;
    const follow = ({ type, clientX, clientY }) => {
      waits &&= type !== "pointerup" && Math.abs(clientX - event.clientX) <= Math.abs(clientY - event.clientY);
      if (waits) return;
      if (pans) scroll.scrollTo(start.x - clientX, start.y - clientY);
      else this.#move((100 * (clientX - box().left)) / box().width);
    };
    follow(event);
    stage.setPointerCapture(event.pointerId);
    const ended = new AbortController();
    const { signal } = ended;
    stage.addEventListener("pointermove", follow, { signal });
    stage.addEventListener("pointerup", (up) => (follow(up), ended.abort()), { signal });
    stage.addEventListener("pointercancel", () => ended.abort(), { signal });
    stage.focus({ preventScroll: true });
    event.preventDefault();
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { scroll, stage } = this.#parts;
    const zoomBy = (steps) => {
      const index = ZOOMS.indexOf(this.#zoom) + steps;
      this.#setZoom(ZOOMS[Math.min(ZOOMS.length - 1, Math.max(0, index))]);
    };
    const pan = (x, y) => scroll.scrollBy((x * scroll.clientWidth) / 8, (y * scroll.clientHeight) / 8);
    const larger = stage.offsetWidth > scroll.clientWidth || stage.offsetHeight > scroll.clientHeight;
    const step = event.shiftKey ? 10 : 2;
    const actions = {
      ArrowLeft: () => this.#move(this.#share - step),
      ArrowRight: () => this.#move(this.#share + step),
      Home: () => this.#move(0),
      End: () => this.#move(100),
      f: () => this.#flip(),
      d: () => this.#differ(),
      "+": () => zoomBy(1),
      "=": () => zoomBy(1),  // + without Shift on many keyboards
      "-": () => zoomBy(-1),
    };
    if (event.shiftKey && larger) {
      actions.ArrowLeft = () => pan(-1, 0);
      actions.ArrowRight = () => pan(1, 0);
      actions.ArrowUp = () => pan(0, -1);
      actions.ArrowDown = () => pan(0, 1);
    }
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }
}

customElements.define("picture-slider", PictureSlider);
