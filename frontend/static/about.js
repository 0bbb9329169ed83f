import "./motion.js";
import "./walk-figure.js";
