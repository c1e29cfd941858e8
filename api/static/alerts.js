/** Drawing an operator's attention: the tab's title, a sound, a desktop notification. */

import { byId } from "./dom.js";
import { keep, kept } from "./kept.js";

const SOUND_EVERY_MS = 1500; // at an opening, a night's chats come at once

// [frequency in Hz, begins after s, lasts s]
const SOUNDS = {
  soft: [[523, 0, 0.35], [659, 0.12, 0.4]],
  bright: [[880, 0, 0.18], [1175, 0.1, 0.3]],
  knock: [[180, 0, 0.08], [160, 0.14, 0.1]],
};

let audio = null;
let played = 0;

function play(name) {
  if (!SOUNDS[name]) return;
  audio ??= new AudioContext();
  audio.resume();
  for (const [frequency, after, lasts] of SOUNDS[name]) {
    const tone = new OscillatorNode(audio, { frequency, type: name === "knock" ? "triangle" : "sine" });
    const volume = new GainNode(audio);
    const at = audio.currentTime + after;
    volume.gain.setValueAtTime(0.18, at);
    volume.gain.exponentialRampToValueAtTime(0.001, at + lasts);
    tone.connect(volume).connect(audio.destination);
    tone.start(at);
    tone.stop(at + lasts);
  }
}

export function setTitle(unread) {
  document.title = `${unread ? `(${unread}) ` : ""}Desk · Shoptalk`;
}

/** A client's chat has come that the operator does not look at just now. */
export function alertTo(chat, name, open) {
  if (Date.now() - played > SOUND_EVERY_MS) {
    played = Date.now();
    play(kept("sound", ""));
  }
  if (!("Notification" in window) || Notification.permission !== "granted" || document.visibilityState === "visible") return;
  const notification = new Notification(name, { body: chat.payload, tag: `shoptalk ${chat.conversation_id}` });
  notification.addEventListener("click", () => {
    window.focus();
    open(chat.conversation_id);
    notification.close();
  });
}

/** Fills the settings; asks for the permission to notify only when the button is pressed. */
export function prepareSettings() {
  const sound = byId("sound");
  sound.value = kept("sound", "");
  sound.addEventListener("change", () => {
    keep("sound", sound.value);
    play(sound.value);
  });
  const singleKeys = byId("single-keys");
  singleKeys.checked = kept("single-keys", true);
  singleKeys.addEventListener("change", () => keep("single-keys", singleKeys.checked));
  byId("allow").addEventListener("click", async () => {
    await Notification.requestPermission();
    showPermission();
  });
  byId("open-settings").addEventListener("click", () => byId("settings").showModal());
  showPermission();
}

function showPermission() {
  const state = "Notification" in window ? Notification.permission : "missing";
  byId("allow").hidden = state !== "default";
  byId("allowed").textContent = {
    default: "",
    granted: "Allowed.",
    denied: "Not allowed: change it in the browser's settings for this site.",
    missing: "This browser has none.",
  }[state];
}
