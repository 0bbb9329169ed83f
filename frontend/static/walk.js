import "./motion.js";
import "./walk-view.js";
