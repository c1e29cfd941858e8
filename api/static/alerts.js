/** Gets an operator's attention: the tab's title, a sound, a desktop notification. And the settings for them. */

/** @import { Chat } from "./conversation.js" */

import { byId, inputById } from "./dom.js";
import { loadItem, saveItem } from "./storage.js";

const SOUND_EVERY_MS = 1500; // when the store opens, all held chats arrive at once

/** @type {Record<string, [frequency: number, start: number, duration: number][]>} in Hz and seconds */
const SOUNDS = {
  soft: [[523, 0, 0.35], [659, 0.12, 0.4]],
  bright: [[880, 0, 0.18], [1175, 0.1, 0.3]],
  knock: [[180, 0, 0.08], [160, 0.14, 0.1]],
};

/** @type {AudioContext | null} */
let audio = null;
let playedAt = 0;

/** @param {string} name */
function play(name) {
  if (!Object.hasOwn(SOUNDS, name)) return;
  audio ??= new AudioContext();
  audio.resume();
  for (const [frequency, start, duration] of SOUNDS[name]) {
    const tone = new OscillatorNode(audio, { frequency, type: name === "knock" ? "triangle" : "sine" });
    const volume = new GainNode(audio);
    const at = audio.currentTime + start;
    volume.gain.setValueAtTime(0.18, at);
    volume.gain.exponentialRampToValueAtTime(0.001, at + duration);
    tone.connect(volume).connect(audio.destination);
    tone.start(at);
    tone.stop(at + duration);
  }
}

/** @param {number} unread */
export function setTitle(unread) {
  document.title = `${unread ? `(${unread}) ` : ""}Desk · Shoptalk`;
}

/**
 * Alerts the operator to a client's chat that is not on the screen.
 * @param {Chat} chat
 * @param {string} name
 * @param {(conversation_id: number) => void} open
 */
export function alertTo(chat, name, open) {
  if (Date.now() - playedAt > SOUND_EVERY_MS) {
    playedAt = Date.now();
    play(loadItem("sound", ""));
  }
  const isAllowed = "Notification" in window && Notification.permission === "granted";
  if (!isAllowed || document.visibilityState === "visible") return;
  const notification = new Notification(name, { body: chat.payload, tag: `shoptalk ${chat.conversation_id}` });
  notification.addEventListener("click", () => {
    window.focus();
    open(chat.conversation_id);
    notification.close();
  });
}

/** Fills in the settings. The browser asks for permission to notify only when the button is pressed. */
export function prepareSettings() {
  const sound = byId("sound", HTMLSelectElement);
  sound.value = loadItem("sound", "");
  sound.addEventListener("change", () => {
    saveItem("sound", sound.value);
    play(sound.value);
  });
  const singleKeys = inputById("single-keys");
  singleKeys.checked = loadItem("single-keys", true);
  singleKeys.addEventListener("change", () => saveItem("single-keys", singleKeys.checked));
  byId("allow").addEventListener("click", async () => {
    await Notification.requestPermission();
    showPermission();
  });
  byId("open-settings").addEventListener("click", () => byId("settings", HTMLDialogElement).showModal());
  showPermission();
}

function showPermission() {
  const state = "Notification" in window ? Notification.permission : "missing";
  byId("allow").hidden = state !== "default";
  byId("allowed").textContent = {
    default: "",
    granted: "Allowed.",
    denied: "Blocked. Allow notifications for this site in the browser's settings.",
    missing: "This browser does not support notifications.",
  }[state];
}
