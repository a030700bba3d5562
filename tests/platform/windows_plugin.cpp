extern "C" __declspec(dllexport) int plugin_function(int x) { return 3 * x; }
