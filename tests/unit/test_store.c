/* Segments and the store: to come. */
void suite_store(void);
void suite_store(void) {}
