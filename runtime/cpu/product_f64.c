/* Matrix products in float64. */
#define FLAMEC_PRODUCT 64
#include "flamec_product.h"
